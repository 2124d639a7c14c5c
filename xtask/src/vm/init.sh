#!/bin/busybox sh
# Process 1 of the lab's guest: brings up what a distribution's init would, runs the command, says how it ended.
# Runs twice: first from the initramfs, then from a tmpfs; /lab/settings tells it what to do.
PATH=/congo:/bin
export PATH

# The initramfs is the "rootfs" of the kernel: pivot_root(2) refuses it, and no real machine stays on it.
if [ "$1" != moved ]; then
    # What is there already remains: the host's own programs.
    /bin/busybox --install -s /bin
    mkdir /new
    mount -t tmpfs -o mode=755,size=80% root /new
    for entry in /*; do
        [ "$entry" = /new ] || cp -a "$entry" /new/
    done
    mkdir -p /new/proc /new/sys /new/dev /new/run /new/tmp /new/var/lib /new/sbin /new/usr/bin
    ln -s /run /new/var/run
    ln -s /bin/busybox /new/sbin/init
    ln -s /bin/env /new/usr/bin/env
    exec switch_root /new /init moved
fi

. /lab/settings

mount -t proc -o nosuid,nodev,noexec proc /proc
mount -t sysfs -o nosuid,nodev,noexec sys /sys
mount -t devtmpfs -o nosuid dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts -o nosuid,noexec,mode=620,ptmxmode=666,gid=5 devpts /dev/pts
mount -t tmpfs -o nosuid,nodev shm /dev/shm
mount -t tmpfs -o nosuid,nodev,mode=755 run /run
# The root is a tmpfs already; it may have the workspace in it.
chmod 1777 /tmp
ln -s /proc/self/fd /dev/fd
ln -s fd/0 /dev/stdin
ln -s fd/1 /dev/stdout
ln -s fd/2 /dev/stderr
# As systemd does: a runtime that forgets to make its mounts private must be seen to leak them here too.
mount --make-rshared /
hostname lab
ip link set lo up
for module in $MODULES; do
    insmod "/lab/modules/$module.ko" || echo "lab: module $module cannot be loaded" >/dev/console
done

# Each v1 controller that the kernel has, where distributions mount it: cpu and cpuacct share a hierarchy.
mount_v1() {
    mount -t tmpfs -o nosuid,nodev,noexec,mode=755 cgroup /sys/fs/cgroup
    while read -r name _ _ enabled; do
        [ "$enabled" = 1 ] || continue
        case $name in
        cpu | cpuacct) folder=cpu,cpuacct ;;
        net_cls | net_prio) folder=net_cls,net_prio ;;
        *) folder=$name ;;
        esac
        # A kernel may lack the v1 files of a controller, as Debian's 6.12 does for memory and cpuset.
        mkdir "/sys/fs/cgroup/$folder" 2>/dev/null &&
            ! mount -t cgroup -o "nosuid,nodev,noexec,$folder" cgroup "/sys/fs/cgroup/$folder" &&
            rmdir "/sys/fs/cgroup/$folder"
        [ "$folder" = "$name" ] || ln -s "$folder" "/sys/fs/cgroup/$name"
    done </proc/cgroups
    mkdir /sys/fs/cgroup/systemd
    mount -t cgroup -o nosuid,nodev,noexec,none,name=systemd cgroup /sys/fs/cgroup/systemd
}
# As systemd leaves it: the controllers that v2 has enabled at the top, and everybody in a cgroup below it.
mount_v2() {
    mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 "$1"
    mkdir "$1/init.scope"
    echo 1 >"$1/init.scope/cgroup.procs"
    for controller in $(cat "$1/cgroup.controllers"); do
        echo "+$controller" >"$1/cgroup.subtree_control"
    done
}
# What systemd does for user@1000.service with Delegate=yes: cgroups(7), "Delegating a hierarchy to a less privileged
# user". The session is a leaf of its own, so that the user can enable controllers above it.
delegate() {
    mkdir -p "$1/session"
    for folder in "$1" "$1/session"; do
        chown user "$folder" "$folder/cgroup.procs" "$folder/cgroup.subtree_control" "$folder/cgroup.threads"
    done
}
case $CGROUP in
v1) mount_v1 ;;
hybrid)
    mount_v1
    mkdir /sys/fs/cgroup/unified
    mount_v2 /sys/fs/cgroup/unified
    ;;
v2)
    mount_v2 /sys/fs/cgroup
    delegate /sys/fs/cgroup/user
    ;;
esac

XDG_RUNTIME_DIR=/run/user/$(id -u "$LAB_USER")
mkdir /run/user
chown user /home/user
mkdir -m 700 "$XDG_RUNTIME_DIR"
chown "$LAB_USER" "$XDG_RUNTIME_DIR"
export XDG_RUNTIME_DIR

# Starts the rest of its arguments as the lab's user; for root too, so that both come the same way.
enter() {
    HOME=$(awk -F: -v user="$LAB_USER" '$1 == user { print $6 }' /etc/passwd)
    export HOME TERM
    cd "$HOME" || cd /
    if [ "$LAB_USER" = root ]; then
        exec "$@"
    fi
    [ "$CGROUP" = v2 ] && echo 0 >/sys/fs/cgroup/user/session/cgroup.procs
    exec su "$LAB_USER" -s /bin/sh -c "exec $*"
}

if [ -n "$INTERACTIVE" ]; then
    # A session with the console as its terminal: job control and Ctrl-C work only so.
    chown "$LAB_USER" "$CONSOLE"
    stty rows "$ROWS" cols "$COLUMNS" <>"$CONSOLE" 2>/dev/null
    # The shell of busybox, as it edits lines. But it takes its own applets before those of PATH.
    echo 'alias ip=/bin/ip' >/lab/aliases
    ENV=/lab/aliases
    export ENV
    (enter setsid cttyhack busybox sh)
    poweroff -f
fi

until ports=$(echo /dev/vport*p4) && [ -e "$ports" ]; do sleep 0.02; done
port=${ports%4}
# Pipes, since a port can be opened once only, and a command may open /dev/stdout again.
mkfifo -m 666 /run/stdout /run/stderr
cat /run/stdout >"${port}2" &
cat /run/stderr >"${port}3" &
exec 8>/run/stdout 9>/run/stderr
(enter /lab/command <"${port}1" >&8 2>&9 8>&- 9>&-)
status=$?
# The mark comes last on both streams: what is on its way is not lost when the machine is switched off.
printf '%s' "$END" >&8
printf '%s' "$END" >&9
echo "$status" >"${port}4"
sleep 60
poweroff -f
