"""What node workers do to a kernel: namespaces, links, addresses, routes, rules, connections.

Everything here blocks, and what enters a namespace moves the calling thread: run it in the process's one
`NetlinkThread`, never on the loop's thread.
"""
