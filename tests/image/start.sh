# Becomes a machine of its own, whose file system is the folder $1, with the folder $2 at /share. Its network is its own,
# with another machine at 192.0.2.2, and no way to any further. Run as the first process of new namespaces.
set -e
mount --make-rprivate /
mount --bind "$1" "$1"
cd "$1"
mkdir -p share was
mount -t proc proc proc
mount -t sysfs sysfs sys
mount --rbind /sys/fs/cgroup sys/fs/cgroup
mount --rbind /dev dev
mount -t tmpfs tmpfs run
mount -t tmpfs tmpfs tmp
mount --bind "$2" share
pivot_root . was
umount -l /was
mount --make-rshared /
mkdir -p /run/netns /run/lock /var/lib/docker
ip link set lo up
ip netns add outside
ip link add uplink0 type veth peer name lan0 netns outside
ip address add 192.0.2.1/24 dev uplink0
ip link set uplink0 up
ip route add default via 192.0.2.2
ip -n outside link set lo up
ip -n outside address add 192.0.2.2/24 dev lan0
ip -n outside link set lan0 up
ip -n outside route add 172.16.0.0/12 via 192.0.2.1
echo ready
exec sleep infinity
