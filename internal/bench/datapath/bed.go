package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"

	"plumb.internal/plumb/internal/bench/lanes"
	"plumb.internal/plumb/reconciler/features"
	"plumb.internal/plumb/schema"
)

// bed has one client pod and some server pods.
type bed struct {
	*lanes.Bed
	attach  string
	client  *os.File
	servers []*os.File
	backend []netip.Addr // of the servers
}

// The addresses: the first one of the pods' is their gateway's.
var (
	podPrefix  = netip.MustParsePrefix("10.0.0.0/24")
	clientAddr = netip.MustParseAddr("10.0.0.2")
)

const node = "node"

// newBed makes the namespaces and all that path p needs in them.
func newBed(ctx context.Context, g *lanes.Ground, attach string, p path, services, servers int) (b *bed, err error) {
	b = &bed{attach: attach}
	if b.Bed, err = g.NewBed(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.Close())
			b = nil
		}
	}()
	addr := clientAddr
	for range servers {
		addr = addr.Next()
		b.backend = append(b.backend, addr)
	}
	if err := b.Converge(ctx, b.config(p, services), node, p.features(g.Features)); err != nil {
		return b, err
	}
	if b.client, err = b.Pod("client"); err != nil {
		return b, err
	}
	for i := range b.backend {
		f, err := b.Pod(serverName(i))
		if err != nil {
			return b, err
		}
		b.servers = append(b.servers, f)
	}
	if p.extra != nil {
		return b, p.extra(ctx, b, services)
	}
	return b, nil
}

func serverName(i int) string { return fmt.Sprintf("server-%d", i) }

// config is the node as a user would write it.
func (b *bed) config(p path, services int) *schema.Config {
	cfg := &schema.Config{
		Nodes:       map[string]schema.Node{node: {Uplinks: []string{lanes.Uplink}, PodCIDRs: []string{podPrefix.String()}}},
		PodDefaults: schema.Pod{Attach: b.attach},
		Pods:        map[string]schema.Pod{"client": {Addresses: []string{clientAddr.String()}}},
	}
	for i, a := range b.backend {
		cfg.Pods[serverName(i)] = schema.Pod{Addresses: []string{a.String()}}
	}
	if !p.programs { // what kube-proxy translates has to be tracked; and so the anchors are what a node without plumb has
		cfg.Tuning.ConntrackBypass = "off"
		return cfg
	}
	if services == 0 {
		return cfg
	}
	cfg.Routing.Services = p.services
	cfg.Tuning.Maps.Services = 2 * services
	cfg.Services = make(map[string]schema.Service, services)
	for i := range services {
		s := schema.Service{
			Addresses: []string{serviceAddr(i).String()},
			Ports:     map[string]schema.Port{"http": {Port: lanes.Port}},
		}
		for _, to := range backendsOf(b, i) {
			s.Backends = append(s.Backends, schema.Backend{Address: to.String()})
		}
		cfg.Services[fmt.Sprintf("service-%d", i)] = s
	}
	return cfg
}

// without is a set that lacks a feature.
func without(set *features.Set, f features.Feature) *features.Set {
	less := *set
	less.Features = maps.Clone(set.Features)
	no := false
	less.Features[f] = features.Status{Supported: &no, Reason: "left out for the measurement"}
	return &less
}
