return cjson.encode(verbs[verb]())
