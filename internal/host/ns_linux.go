package host

import (
	"errors"
	"fmt"
	"io/fs"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	vnetns "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"plumb.internal/plumb/internal/netns"
)

// NS is one network namespace of the host. Dumps are read once and kept until Host.Forget.
type NS struct {
	Name string   // of the pod; "" for the root namespace
	Path string   // where it is named; "" for the root namespace
	ID   netns.ID // which namespace that was when the handles were made

	h     *Host
	epoch int
	conn  *conn

	cookie atomic.Uint64 // 0 until somebody asks

	mu     sync.Mutex
	handle *netlink.Handle

	links   cached[*Link]
	addrs   cached[netlink.Addr]
	routes  cached[netlink.Route]
	neighs  cached[Neigh]
	proxies cached[Neigh]
	rules   cached[netlink.Rule]
	qdiscs  cached[Qdisc]
}

// connect opens the socket; the calling thread is in the namespace.
func (ns *NS) connect() (err error) {
	ns.conn, err = newConn()
	return err
}

func (ns *NS) close() {
	ns.conn.close()
	ns.mu.Lock()
	defer ns.mu.Unlock()
	if ns.handle != nil {
		ns.handle.Close()
		ns.handle = nil
	}
}

// Forget drops what was read from this namespace.
func (ns *NS) Forget() {
	ns.links.forget()
	ns.addrs.forget()
	ns.routes.forget()
	ns.neighs.forget()
	ns.proxies.forget()
	ns.rules.forget()
	ns.qdiscs.forget()
}

// Handle returns the netlink library's handle in this namespace, made when first asked for. It panics where the process
// may open no more files, or the namespace has been let go: a handle of the library that has no socket would act on
// whichever namespace the thread is in.
func (ns *NS) Handle() *netlink.Handle {
	ns.mu.Lock()
	defer ns.mu.Unlock()
	if ns.handle != nil {
		return ns.handle
	}
	fd, err := ns.conn.netns()
	if err == nil {
		defer unix.Close(fd)
		// The family is explicit: a kernel without xfrm refuses the library's default set.
		ns.handle, err = netlink.NewHandleAt(vnetns.NsHandle(fd), unix.NETLINK_ROUTE)
	}
	if err != nil {
		panic(fmt.Errorf("open a netlink handle in namespace %q: %w", ns.Name, err))
	}
	return ns.handle
}

// Links lists the devices.
func (ns *NS) Links() ([]*Link, error) { return ns.links.get(ns.conn.links) }

// Addrs lists the addresses of both families.
func (ns *NS) Addrs() ([]netlink.Addr, error) { return ns.addrs.get(ns.conn.addrs) }

// Routes lists the routes of all tables and both families. Dst is never nil.
func (ns *NS) Routes() ([]netlink.Route, error) { return ns.routes.get(ns.conn.routes) }

// Neighs lists the neighbour entries of both families and of bridges, without proxy entries.
func (ns *NS) Neighs() ([]Neigh, error) {
	return ns.neighs.get(func() ([]Neigh, error) { return ns.conn.neighs(0) })
}

// Proxies lists the proxy neighbour entries of both families.
func (ns *NS) Proxies() ([]Neigh, error) {
	return ns.proxies.get(func() ([]Neigh, error) { return ns.conn.neighs(unix.NTF_PROXY) })
}

// Rules lists the policy routing rules of both families.
func (ns *NS) Rules() ([]netlink.Rule, error) { return ns.rules.get(ns.conn.rules) }

// Qdiscs lists the queueing disciplines of all devices.
func (ns *NS) Qdiscs() ([]Qdisc, error) { return ns.qdiscs.get(ns.conn.qdiscs) }

// LinkIndex asks the kernel for the index of a device. The error wraps fs.ErrNotExist where there is none.
func (ns *NS) LinkIndex(name string) (int, error) {
	l, err := ns.Link(name)
	if err != nil {
		return 0, err
	}
	return l.Index, nil
}

// Link asks the kernel for one device, as it is now. The error wraps fs.ErrNotExist where there is none.
func (ns *NS) Link(name string) (*Link, error) {
	l, err := ns.conn.link(name)
	switch {
	case err == nil:
		return l, nil
	case isNoDevice(err):
		err = fs.ErrNotExist
	}
	if ns.Name != "" {
		name = ns.Name + "/" + name
	}
	return nil, fmt.Errorf("find link %s: %w", name, err)
}

// Request sends one request that isn't a dump, waits for the kernel's word on it, and returns that as an error. The
// caller announces writes.
func (ns *NS) Request(req *nl.NetlinkRequest) error { return ns.conn.once(req, nil) }

// FD opens the namespace; the caller closes the descriptor.
func (ns *NS) FD() (int, error) { return ns.conn.netns() }

// Do runs fn on a thread inside the namespace, where /proc/sys/net is that of the namespace. fn must not call Do.
func (ns *NS) Do(fn func() error) error {
	fd, err := ns.conn.netns()
	if err != nil {
		return fmt.Errorf("enter namespace %q: %w", ns.Name, err)
	}
	defer unix.Close(fd)
	return ns.h.threads.do(fd, fn)
}

// prefetch reads every table, so that later calls find them.
func (ns *NS) prefetch() error {
	if _, err := ns.Links(); err != nil {
		return err
	}
	if _, err := ns.Addrs(); err != nil {
		return err
	}
	if _, err := ns.Routes(); err != nil {
		return err
	}
	if _, err := ns.Neighs(); err != nil {
		return err
	}
	_, err := ns.Rules()
	return err
}

// cached keeps what was read until it is told to forget. Errors aren't kept.
type cached[T any] struct {
	mu   sync.Mutex
	done bool
	v    []T
}

func (c *cached[T]) get(read func() ([]T, error)) ([]T, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.done {
		v, err := read()
		if err != nil {
			return nil, err
		}
		c.v, c.done = v, true
	}
	return c.v, nil
}

func (c *cached[T]) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.v, c.done = nil, false
}

// threads are a few OS threads that visit namespaces. They never run anything else, and the runtime ends them with their
// goroutine. A visit costs two calls, where a thread of its own would cost thirty times that.
type threads struct {
	once sync.Once
	jobs chan job
	quit chan struct{}
}

type job struct {
	fd   int
	fn   func() error
	done chan result
}

type result struct {
	err      error
	panicked any
}

// do runs fn inside a namespace. A panic of fn goes on in the caller.
func (t *threads) do(fd int, fn func() error) error {
	t.once.Do(func() {
		t.jobs, t.quit = make(chan job), make(chan struct{})
		for range runtime.GOMAXPROCS(0) + 1 {
			go t.work()
		}
	})
	j := job{fd, fn, make(chan result, 1)}
	select {
	case t.jobs <- j:
	case <-t.quit:
		return errClosed
	}
	r := <-j.done
	if r.panicked != nil {
		panic(r.panicked)
	}
	return r.err
}

func (t *threads) work() {
	runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
	home, err := netns.Current()
	if err == nil {
		defer home.Close()
	}
	for {
		select {
		case j := <-t.jobs:
			r := result{err: err}
			if err == nil {
				r = j.run()
				// A thread that stayed would keep a deleted namespace alive.
				err = netns.Enter(int(home.Fd()))
			}
			j.done <- r
			if err != nil {
				go t.work() // on another thread: this one is of no use any more
				return
			}
		case <-t.quit:
			return
		}
	}
}

func (j job) run() (r result) {
	defer func() { r.panicked = recover() }()
	if r.err = netns.Enter(j.fd); r.err == nil {
		r.err = j.fn()
	}
	return r
}

func (t *threads) stop() {
	t.once.Do(func() { t.jobs, t.quit = make(chan job), make(chan struct{}) })
	select {
	case <-t.quit:
	default:
		close(t.quit)
	}
}

func isNoDevice(err error) bool { return errors.Is(err, unix.ENODEV) }
