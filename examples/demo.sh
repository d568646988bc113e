#!/bin/bash
# The quickstart in a private lab: from CUE files to running pods, a second apply that changes nothing, and everything gone
# again. Nothing of this machine's network is touched. Needs root and bin/plumb (make demo builds it).
set -euo pipefail
cd "$(dirname "$0")/.."
PATH="$PWD/bin:$PATH"
dir=$(mktemp -d)/quickstart
trap 'plumb lab down -C "$dir" >/dev/null || true; rm -rf "${dir%/quickstart}"' EXIT

run() {
	printf '\n$ %s\n' "$*"
	"$@"
}

plumb init --example quickstart "$dir" >/dev/null
cd "$dir"
run cat plumb.cue
run plumb validate
run plumb lab up
run plumb lab exec -- plumb pod ls
run plumb lab exec -- plumb exec client -- ping -c 1 10.0.0.10
run plumb lab exec -- plumb exec client -- ping -c 1 fd00:10::10

run plumb lab exec -- plumb svc ls
plumb lab exec -- plumb exec web -- socat TCP6-LISTEN:8080,fork SYSTEM:'echo this is web' &
server=$!
until plumb lab exec -- plumb exec client -- bash -c ': </dev/tcp/10.0.0.10/8080' 2>/dev/null; do
	kill -0 "$server" # or there is nothing to wait for
done
run plumb lab exec -- plumb exec client -- socat -u TCP:10.96.0.100:80 -
run plumb lab exec -- plumb exec client -- socat -u TCP:[fd00:96::64]:80 -
kill "$server"

run plumb lab exec -- plumb plan
run plumb lab exec -- plumb apply --yes
run plumb lab exec -- plumb status
run plumb lab exec -- plumb destroy --yes
run plumb lab exec -- ip -brief link
run plumb lab down
