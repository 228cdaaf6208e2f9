#!/usr/bin/env bash
# Two sandboxes that find each other by name, a published port, and what was told of it: with `nats` and `jq`.
set -euo pipefail

export NATS_URL="${CNM_NATS_URL:-nats://127.0.0.1:4222}"
url=http://127.0.0.1:8080/

# Sends a request and prints the reply's body; fails, and says with which code, when it was refused. `nats` itself
# succeeds with whatever came, and with nothing, too. A second more than the deadline lets the worker say that it passed.
ask() {
  local reply
  reply=$(nats request "cnm.v1.$1" "$2" --header Cnm-Deadline-Ms:10000 --timeout 11s --raw)
  [ -n "$reply" ] || { echo "unavailable: nobody answered $1"; return 1; }
  if jq -e 'has("error")' <<<"$reply" >/dev/null; then
    jq -r '.error | "\(.code): \(.message)"' <<<"$reply"
    return 1
  fi
  printf '%s\n' "$reply"
}

last_event() { nats stream info CNM_EVENTS --json | jq .state.last_seq; }

clean_up() {
  [ -z "${serving:-}" ] || kill "$serving" 2>/dev/null || true
  ask sandbox.delete '{"sandbox": "server", "force": true}' >/dev/null || true
  ask sandbox.delete '{"sandbox": "client", "force": true}' >/dev/null || true
  ask network.delete '{"network": "example", "force": true}' >/dev/null || true
}
trap clean_up EXIT
before=$(last_event)

ask network.create '{"name": "example"}' | jq -r '"network \(.name) \(.ipam.pools[0].subnet)"'
for name in server client; do
  ask sandbox.create "{\"name\": \"$name\"}" >/dev/null
  ask sandbox.connect "{\"sandbox\": \"$name\", \"network\": \"example\"}" | jq -r '"attached \(.name) \(.ipv4_address)"'
done

echo "client finds server at $(cnm exec client -- getent hosts server | awk '{print $1}')"

ask sandbox.publish '{"sandbox": "server", "ports": [{"container_port": 8000, "host_port": 8080}]}' >/dev/null
cnm exec server -- python3 -m http.server 8000 >/dev/null 2>&1 &
serving=$!
status=$(curl --silent --output /dev/null --write-out '%{http_code}' --retry 100 --retry-all-errors --retry-delay 0 \
  --retry-max-time 10 "$url")
echo "published $url answers $status"
kill "$serving"

refusal=$(ask network.create '{"name": "example"}') || echo "refused: $refusal"

trap - EXIT
clean_up
count=$(($(last_event) - before))
nats subscribe --stream CNM_EVENTS --start-sequence $((before + 1)) --count "$count" --dump - | tr '\0' '\n' |
  jq -r '(.Data | @base64d | fromjson | .object.name // empty) as $name  # pools and addresses have none
    | "event \(.Subject | split(".")[3:5] | join(".")) \($name)"'
