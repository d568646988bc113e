package netns

import (
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// firstThread is where fn ran that was begun on the process's first thread.
var firstThread struct{ begun, ran int }

func init() { runtime.LockOSThread() } // main stays on the first thread

func TestMain(m *testing.M) {
	firstThread.begun = unix.Gettid()
	onOwnThread(func() { firstThread.ran = unix.Gettid() })
	os.Exit(m.Run())
}

func TestNeverOnTheFirstThread(t *testing.T) {
	if firstThread.begun != unix.Getpid() {
		t.Fatalf("begun on thread %d of process %d: this tests nothing", firstThread.begun, unix.Getpid())
	}
	if firstThread.ran == 0 || firstThread.ran == unix.Getpid() {
		t.Errorf("ran on thread %d of process %d", firstThread.ran, unix.Getpid())
	}
}

func TestPanicGoesOn(t *testing.T) {
	defer func() {
		if p := recover(); p != "stop" {
			t.Errorf("recovered %v", p)
		}
	}()
	_ = thread(func() error { panic("stop") })
	t.Error("came back")
}
