#!/bin/sh
# The rough cases: what nobody tries on a machine that is needed tomorrow. Run as root in the lab's guest, with the
# steps' programs as arguments, of which the last is tried. Prints "ok NAME" or "not ok NAME: WHY" for each case; exits
# 0 when all went well.
for program; do :; done
programs=$*
failures=0
# The kernels on which an ordinary user mounts no overlay.
case $(uname -r) in
5.[0-9].* | 5.10.*) old=yes ;;
*) old= ;;
esac
tmp=$(mktemp -d)
TMPDIR=$tmp
export TMPDIR

# What a run must leave as it was: processes, cgroups, mounts, temporary files. The kernel's threads, whose parent is
# 2, come and go; so do this script's copies of itself. ps looks alone: a neighbour in a pipe would have no arguments
# yet, or no more. Whether a process runs or sleeps at that moment plays no part; of a zombie the name has brackets.
look() {
    ps -o ppid,args >/run/ps
    awk '$1 != 2 && $2 != "ps" && !/rough\.sh|kthreadd/' /run/ps | sort
    find /sys/fs/cgroup -type d -name 'congo-*'
    cat /proc/mounts
    find "$tmp"
}

same_as_before() {
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        look >/run/after
        cmp -s /run/before /run/after && return 0
        sleep 0.3
    done
    why="left behind: $(diff /run/before /run/after | grep '^[+-][^+-]' | tr '\n' ' ')"
    return 1
}

# Runs a case: a function that returns 0, or says in $why what went wrong.
try() {
    why='it failed'
    look >/run/before
    start=$(date +%s)
    if "$1" && same_as_before; then
        echo "ok $1 ($(($(date +%s) - start)) s)"
    else
        echo "not ok $1: $why"
        failures=$((failures + 1))
    fi
}

# The runtime must refuse, with status 125 and words that match $1, in two lines at most. What it says once begins with
# its family's name.
refuses() {
    words=$1
    shift
    "$@" >/run/out 2>/run/err
    status=$?
    was_refused "$words"
}

was_refused() {
    why="status $status, stderr: $(tr '\n' '/' </run/err)"
    [ "$status" = 125 ] && grep -q -i -e "$1" /run/err && [ "$(grep -vc '^congo: ' /run/err)" -le 2 ]
}

processes() {
    ls -d /proc/[0-9]* | wc -l
}

fork_bomb() {
    before=$(processes)
    mkfifo "$tmp/held"
    "$program" sh -c 'bomb() { bomb | bomb & bomb; }; bomb & read -r x' <"$tmp/held" >/dev/null 2>&1 &
    bomb=$!
    # The container's stdin is what holds its PID 1: when this closes, both end.
    exec 3>"$tmp/held"
    rm "$tmp/held"
    # A busy machine takes its time until the bomb goes off. Then it must stay where it is.
    during=0
    for _ in $(seq 100); do
        [ "$during" -gt $((before + 30)) ] && break
        sleep 0.2
        during=$(processes)
    done
    sleep 2
    later=$(processes)
    exec 3>&-
    wait "$bomb"
    why="$before processes before, $during and 2 s later $later while the bomb went off: the limit is 64"
    [ "$during" -gt $((before + 30)) ] && [ "$during" -lt $((before + 80)) ] && [ "$later" -lt $((before + 80)) ]
}

memory_hog() {
    # tail keeps the last line, and this one never ends.
    "$program" tail /dev/zero >/dev/null 2>/run/err
    status=$?
    why="status $status, stderr: $(tr '\n' '/' </run/err)"
    [ "$status" = 137 ] && grep -q -i memory /run/err
}

many_hogs() {
    # Each alone stays below the guest's memory; only limits keep all of them from taking it.
    for _ in 1 2 3 4 5 6; do
        "$program" tail /dev/zero >/dev/null 2>&1 &
        hogs="$hogs $!"
    done
    killed=0
    for hog in $hogs; do
        wait "$hog"
        [ $? = 137 ] && killed=$((killed + 1))
    done
    why="$killed of 6 were killed"
    [ "$killed" = 6 ]
}

# Starts and kills, from "not yet executed" to "at work". A start takes some milliseconds, and each moment of it is
# another case.
storm() {
    for step in $(seq 70); do
        "$program" sh -c 'sleep 1000 & sleep 1000' >/dev/null 2>&1 &
        run=$!
        usleep $((step * 500))
        kill -9 "$run"
        wait "$run"
    done 2>/dev/null
}

kill_storm() {
    busy=
    # A busy machine: a process that was made waits for a processor, so that its maker can die before its first line.
    for _ in 1 2 3 4 5 6; do
        yes >/dev/null &
        busy="$busy $!"
    done
    # Two at once: each run also sweeps what the killed ones of the other left, and must spare the living.
    storm &
    other=$!
    storm
    wait "$other"
    # shellcheck disable=SC2086  # Word by word.
    kill $busy
    wait
    "$program" true 2>/run/err
    status=$?
    why="the run after the storm: status $status, stderr: $(tr '\n' '/' </run/err)"
    [ "$status" = 0 ]
}

full_disk() {
    mkdir "$tmp/disk"
    mount -t tmpfs -o size=64k,mode=755 disk "$tmp/disk"
    # Nothing that could pass for a root may be there, and with room it must work.
    refuses 'no space left' env CONGO_HOME="$tmp/disk" "$program" true &&
        why="half a root: $(find "$tmp/disk" -name busybox)" &&
        [ -z "$(find "$tmp/disk" -path '*/rootfs/host/*')" ] &&
        mount -o remount,size=64m "$tmp/disk" &&
        why='with room on the disk it still fails' &&
        CONGO_HOME="$tmp/disk" "$program" true 2>/dev/null
    result=$?
    umount "$tmp/disk"
    rmdir "$tmp/disk"
    return "$result"
}

no_more_pids() {
    limit=$(cat /proc/sys/kernel/threads-max)
    # The limit counts when a process is made, also for root. The shell that sets it has been made before, and becomes
    # the runtime. This one starts nothing until it has set the limit back.
    sh -c 'echo 20 >/proc/sys/kernel/threads-max; exec "$0" true' "$program" >/run/out 2>/run/err &
    wait $!
    status=$?
    echo "$limit" >/proc/sys/kernel/threads-max
    was_refused 'EAGAIN'
}

read_only_cgroups() {
    refuses '/sys/fs/cgroup.*read-only\|/sys/fs/cgroup.*EROFS' unshare -m sh -c '
        for mount in $(grep " cgroup2\? " /proc/mounts | cut -d" " -f2); do
            mount -o remount,bind,ro "$mount"
        done
        exec "$0" true' "$program"
}

# A machine without systemd: nothing has enabled the controllers that v2's top has.
nothing_enabled() {
    top=/sys/fs/cgroup/cgroup.subtree_control
    [ -f "$top" ] || return 0
    enabled=$(cat "$top")
    for controller in $enabled; do
        echo "-$controller" >"$top"
    done
    why="still enabled: $(cat "$top")"
    [ -z "$(cat "$top")" ] && "$program" true 2>/run/err
    result=$?
    [ "$result" = 0 ] || why="$why, stderr: $(tr '\n' '/' </run/err)"
    for controller in $enabled; do
        echo "+$controller" >"$top"
    done
    return "$result"
}

no_cgroups() {
    refuses 'cgroup' unshare -m sh -c '
        for mount in $(grep " cgroup2\? " /proc/mounts | cut -d" " -f2); do
            umount "$mount"
        done
        exec "$0" true' "$program"
}

# Steps 0 to 3 need root, and say so. Step 4 does not; but before 5.11 a user has no overlay.
ordinary_user() {
    for each in $programs; do
        [ "$each" = "$program" ] || refuses 'root' su user -s /bin/sh -c "exec $each true" || return 1
    done
    su user -s /bin/sh -c "exec $program id -u" >/run/out 2>/run/err
    status=$?
    if [ -n "$old" ]; then was_refused '5\.11'; return; fi
    why="status $status, stdout: $(cat /run/out), stderr: $(tr '\n' '/' </run/err)"
    [ "$status" = 0 ] && [ "$(cat /run/out)" = 0 ]
}

# Nothing to check is no success; and nothing may fail for want of root, but be skipped, for that reason. Step 4's checks of
# containers without root, limits included, run in a cgroup that is the user's where there is one.
checks_as_user() {
    for each in $programs; do
        select='--only cli' reason='not root'
        if [ "$each" = "$program" ]; then select='--only rootless' reason='5\.11'; fi
        group=/sys/fs/cgroup/user/session/cgroup.procs
        join=
        [ -f "$group" ] && join="echo 0 >$group;"
        TMPDIR=/tmp sh -c "$join exec su user -s /bin/sh -c 'xtask check $each --bin $(command -v "$each") $select --json'" \
            >/run/out 2>/run/err
        status=$?
        why="$each: status $status, $(grep '"passed"\|"failed"\|"found"' /run/out | tr '\n' '/') stderr: $(tr '\n' '/' </run/err)"
        grep -q '"failed": 0' /run/out || return 1
        if [ "$each" = "$program" ] && [ -z "$old" ]; then
            [ "$status" = 0 ] || return 1
        else
            [ "$status" = 1 ] && grep -q '"passed": 0' /run/out && grep -q "$reason" /run/out || return 1
        fi
    done
}

# What the doctor says of the steps, with a limit on user namespaces.
ask_doctor() {
    found=$(cat /proc/sys/user/max_user_namespaces)
    echo "$1" >/proc/sys/user/max_user_namespaces
    xtask doctor >/run/out 2>/run/err
    status=$?
    echo "$found" >/proc/sys/user/max_user_namespaces
    why="limit $1, status $status: $(grep ' step [0-9]' /run/out | tr '\n' '/'), stderr: $(tr '\n' '/' </run/err)"
}

# As on a hardened machine. The doctor must name that cause, and for step 4 only.
no_user_namespaces() {
    ask_doctor "$(cat /proc/sys/user/max_user_namespaces)"
    # Before 5.11 a user has no overlay: then, and only then, something else is missing.
    cannot=$(grep 'step .*: cannot run' /run/out)
    case $cannot in
    '') [ "$status" = 0 ] || return 1 ;;
    *"
"*) return 1 ;;
    *'step 4 as an ordinary user: cannot run: because overlay for ordinary users'*'5.11'*) [ "$status" = 1 ] || return 1 ;;
    *) return 1 ;;
    esac
    grep -q 'max_user_namespaces' /run/out && return 1
    ask_doctor 0
    [ "$status" = 1 ] || return 1
    for step in 0 1 2 3; do
        grep -q "step $step: can run" /run/out || return 1
    done
    cause='cannot run: because user namespace.*: user\.max_user_namespaces is 0'
    grep -q "step 4 as an ordinary user: $cause" /run/out && grep -q "step 4 as root: $cause" /run/out
}

# The subtree of v2 that belongs to the user: what a runtime without root builds on.
delegated_subtree() {
    top=/sys/fs/cgroup/user
    [ -d "$top" ] || return 0
    sh -c "echo 0 >$top/session/cgroup.procs && exec su user -s /bin/sh -c '
        mkdir $top/congo && echo +memory +pids >$top/cgroup.subtree_control &&
        echo 16M >$top/congo/memory.max && echo 0 >$top/congo/cgroup.procs && cat /proc/self/cgroup'" >/run/out 2>/run/err
    why="stdout: $(cat /run/out), stderr: $(tr '\n' '/' </run/err)"
    echo '-memory -pids' >"$top/cgroup.subtree_control" && rmdir "$top/congo" && [ "$(cat /run/out)" = 0::/user/congo ]
}

# A kernel may lack a controller that every step needs, as Debian's 6.12 does memory in v1.
controller_missing() {
    for each in $programs; do
        refuses 'controller.*memory' "$each" true || return 1
    done
}

cases="fork_bomb memory_hog many_hogs kill_storm full_disk no_more_pids read_only_cgroups nothing_enabled no_cgroups
    ordinary_user checks_as_user no_user_namespaces delegated_subtree"
[ -d /sys/fs/cgroup/memory ] || grep -q -s memory /sys/fs/cgroup/cgroup.controllers \
    /sys/fs/cgroup/unified/cgroup.controllers || cases="controller_missing no_cgroups ordinary_user"
# So that the root is there before the first look.
"$program" true 2>/dev/null
for case in $cases; do
    try "$case"
done
exit "$failures"
