package main

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// traced are the calls by which a process could write anything to the kernel or to a file.
const traced = "sendto,sendmsg,sendmmsg,bpf,write,writev,pwrite64,pwritev,openat,open,creat,rename,renameat,renameat2,unlink,unlinkat,rmdir,mkdir,mkdirat," +
	"mknod,mknodat,symlink,symlinkat,link,linkat,chmod,fchmod,fchmodat,truncate,ftruncate,mount,umount2,move_mount,setsockopt,flock"

// What of it writes nothing.
var harmless = []*regexp.Regexp{
	// Netlink dumps and questions.
	regexp.MustCompile(`^send(to|msg)\(\d+(<[^>]*>+)?, .*(nlmsg_type=(RTM_GET|CTRL_CMD_GETFAMILY|NFNL_SUBSYS_NFTABLES<<8\|NFT_MSG_GET|SOCK_DIAG_BY_FAMILY|XFRM_MSG_GETPOLICY)\w*)`),
	// strace doesn't know the sockets of other namespaces: every fourth type from RTM_GETLINK (0x12) on asks, and every
	// third one of nftables (0xa00) from NFT_MSG_GETTABLE on, up to the elements of sets. In the family netdev command 1 asks.
	regexp.MustCompile(`^sendto\(\d+(<[^>]*>+)?, .*nlmsg_type=0x[1-7][26ae] /\* NLMSG_\?\?\? \*/`),
	regexp.MustCompile(`^sendto\(\d+(<[^>]*>+)?, .*nlmsg_type=0xa0[147ad] /\* NLMSG_\?\?\? \*/`),
	regexp.MustCompile(`^sendto\(\d+(<[^>]*>+)?, .*nlmsg_type=netdev, [^}]*}, "\\x01\\x01`),
	regexp.MustCompile(`^sendto\(\d+(<[^>]*>+)?, .*nlmsg_type=nlctrl, [^}]*}, "\\x03`),
	regexp.MustCompile(`^bpf\(BPF_(OBJ_GET|MAP_LOOKUP|PROG_GET|PROG_QUERY|MAP_GET|LINK_GET|BTF_GET|OBJ_GET_INFO|MAP_LOOKUP_BATCH)\w*,`),
	// What people read, pipes between plumb and its evaluator, and the runtime's own wake-ups.
	regexp.MustCompile(`^p?write(v|64)?\((1|2)<`),
	regexp.MustCompile(`^p?write(v|64)?\(\d+<(pipe:|anon_inode:\[eventfd\]|/dev/null|/dev/pts|socket:|UNIX)`),
	// Opening to read, the null device, and the one lock.
	regexp.MustCompile(`^open(at)?\([^O]*"[^"]*", [^)]*O_RDONLY`),
	regexp.MustCompile(`^open(at)?\([^"]*"/dev/null", `),
	regexp.MustCompile(`^openat\([^"]*"/run/plumb/edge-1/lock", O_RDWR\|O_CREAT\|O_CLOEXEC, 0600\) += \d+<`), // resumed calls are padded
	regexp.MustCompile(`^flock\(\d+</run/plumb/edge-1/lock>, (LOCK_EX\|LOCK_NB|LOCK_UN)\)`),
	// Options of a process's own sockets.
	regexp.MustCompile(`^setsockopt\(\d+(<[^>]*>+)?, SOL_(NETLINK|SOCKET), (NETLINK_\w+|SO_RCVTIMEO\w*|SO_SNDTIMEO\w*|SO_RCVBUF\w*|SO_SNDBUF\w*|SO_PASSCRED|SO_BROADCAST), `),
	regexp.MustCompile(`^(\+\+\+|---|<\.\.\.)`),
	// Calls that failed at once changed nothing: looking for what isn't there.
	regexp.MustCompile(` = -1 (ENOENT|EAGAIN)`),
}

// askingByProgram are the calls by which a namespace's cookie is asked for where the kernel tells it to programs alone
// (before 5.14): one is loaded, and attached to the process's own cgroup until it has answered. They pin nothing.
var askingByProgram = regexp.MustCompile(`^bpf\((BPF_MAP_CREATE|BPF_PROG_LOAD|BPF_LINK_CREATE|0x24 /\* BPF_\?\?\? \*/),`)

// tellsCookies reports whether the kernel tells a socket the cookie of its namespace.
func tellsCookies(t *testing.T) bool {
	t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	_, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
	return err == nil
}

// TestSecondApplyWritesNothing counts, from outside, what an apply with nothing to do writes, its evaluator included: the
// lock is all.
func TestSecondApplyWritesNothing(t *testing.T) {
	needRoot(t)
	strace, err := exec.LookPath("strace")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	l := manyPods(t, 20)
	mustRun(t, inLab(t, l, "apply", "--yes"))
	file := filepath.Join(t.TempDir(), "trace")
	cmd := l.Command(t.Context(), "", strace, "-f", "-y", "-s", "256", "-o", file, "-e", "trace="+traced, "plumb", "apply", "--yes")
	cmd.Dir = l.Dir
	if out := mustRun(t, cmd); !strings.Contains(out, "no changes") || !strings.Contains(out, "nothing was written") {
		t.Fatalf("the second apply says %s", out)
	}
	questions, locks, forbidden := countWrites(t, file)
	t.Logf("%d questions to the kernel, %d locks, %d writes", questions, locks, len(forbidden))
	if questions == 0 || locks != 1 {
		t.Errorf("the trace shows %d questions and %d locks: it didn't see the apply", questions, locks)
	}
	for i, line := range forbidden {
		if i == 20 {
			break
		}
		t.Errorf("writes: %s", line)
	}

	// The count can fail: something to heal shows in it.
	mustRun(t, l.Command(t.Context(), "", "ip", "link", "del", "pl-p7"))
	cmd = l.Command(t.Context(), "", strace, "-f", "-y", "-s", "256", "-o", file, "-e", "trace="+traced, "plumb", "apply", "--yes")
	cmd.Dir = l.Dir
	mustRun(t, cmd)
	if _, _, forbidden := countWrites(t, file); len(forbidden) == 0 {
		t.Error("an apply that heals a link shows no writes: the count sees nothing")
	}
}

// countWrites reads a trace: netlink messages that ask, locks, and every call that isn't harmless.
func countWrites(t *testing.T, file string) (questions, locks int, forbidden []string) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	tells := tellsCookies(t)
	unfinished := map[string]string{}
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		pid, call, _ := strings.Cut(lines.Text(), " ")
		call = strings.TrimSpace(call)
		if begin, ok := strings.CutSuffix(call, " <unfinished ...>"); ok {
			unfinished[pid] = begin
			continue
		}
		if strings.HasPrefix(call, "<... ") {
			_, end, _ := strings.Cut(call, " resumed>")
			call = unfinished[pid] + end
		}
		ok := !tells && askingByProgram.MatchString(call)
		for _, h := range harmless {
			ok = ok || h.MatchString(call)
		}
		switch {
		case !ok:
			forbidden = append(forbidden, call)
		case strings.HasPrefix(call, "send"):
			questions++
		case strings.HasPrefix(call, "flock") && strings.Contains(call, "LOCK_EX"):
			locks++
		}
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return questions, locks, forbidden
}
