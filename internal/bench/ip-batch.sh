#!/bin/sh
# The baseline that `make bench` compares an apply of N routed veth pods with: what a careful person would script with
# iproute2. Three batches: the namespaces, the pairs with the host's routes and neighbours, and one `ip -n POD -batch`
# for the inside of each pod. Run it in a network namespace and a mount namespace of its own.
#
#   ip-batch.sh N
set -eu
n=$1
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
i=0
while [ $i -lt "$n" ]; do
	p=$((i + 2))
	a=10.0.$((p / 256)).$((p % 256))
	x=$(printf '%02x:%02x' $((p / 256)) $((p % 256)))
	echo "netns add pod-$i" >>"$tmp/ns"
	cat >>"$tmp/host" <<-X
		link add h-$i address 02:00:00:01:$x mtu 1500 type veth peer name eth0 address 02:00:00:02:$x mtu 1500 netns pod-$i
		link set h-$i up
		route add $a/32 dev h-$i
		neigh add $a lladdr 02:00:00:02:$x dev h-$i nud permanent
	X
	cat >"$tmp/pod-$i" <<-X
		link set lo up
		addr add $a/32 dev eth0
		link set eth0 up
		neigh add 169.254.10.24 lladdr 02:00:00:01:$x dev eth0 nud permanent
		route add default via 169.254.10.24 dev eth0 onlink
	X
	i=$((i + 1))
done
start=$(date +%s%N)
sysctl -qw net.ipv4.ip_forward=1 2>/dev/null || echo 1 >/proc/sys/net/ipv4/ip_forward
ip -batch "$tmp/ns"
ip -batch "$tmp/host"
i=0
while [ $i -lt "$n" ]; do
	ip -n "pod-$i" -batch "$tmp/pod-$i"
	i=$((i + 1))
done
end=$(date +%s%N)
echo $((end - start)) # nanoseconds
