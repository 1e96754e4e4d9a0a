package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	sitev1 "chom.dev/proto/gen/chom/site/v1"

	"chom.dev/packaging/lab"
	"chom.dev/packaging/rig"
)

const dashboardLimit = 10 * time.Minute // for the browser to be through

// dashboard is what somebody in front of it waits for: a browser that loads its pages with an empty cache and a quarter of the
// processor, types into a list of 1,000 sites, and follows tasks of a real host. controlplane/web/src/figures.walk.ts measures.
func dashboard(ctx context.Context, b *bench) (_ []row, err error) {
	s, err := b.build(ctx, rig.Options{Args: []string{"--log-level=warn"}})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.close(ctx, err)) }()
	_, server, err := s.server(ctx)
	if err != nil {
		return nil, err
	}
	organization, err := s.thousandSites(ctx)
	if err != nil {
		return nil, err
	}
	sites, err := s.Sites.ListSites(ctx, &sitev1.ListSitesRequest{OrganizationId: organization, PageSize: 1})
	if err != nil {
		return nil, err
	}
	// To a browser only loopback is as good as HTTPS.
	door, closeDoor, err := forward(strings.TrimPrefix(s.URL(), "http://"))
	if err != nil {
		return nil, err
	}
	defer closeDoor()
	out := filepath.Join(s.dir, "dashboard.json")
	place, err := json.Marshal(map[string]string{
		"baseUrl": "http://" + door, "email": rig.OperatorEmail, "password": rig.OperatorPassword,
		"organization": organization, "site": sites.GetSites()[0].GetId(), "server": server.GetId(), "out": out,
	})
	if err != nil {
		return nil, err
	}
	walking, cancel := context.WithTimeout(ctx, dashboardLimit)
	defer cancel()
	var said bytes.Buffer
	err = rig.Walk(walking, ".", "figures", []string{"FIGURES=" + string(place)}, &said, "--testTimeout=300000")
	b.detail("%s", &said)
	if err != nil {
		return nil, fmt.Errorf("%w:\n%s", err, &said)
	}
	text, err := os.ReadFile(out)
	if err != nil {
		return nil, err
	}
	var m measured
	if err := json.Unmarshal(text, &m); err != nil {
		return nil, err
	}
	return m.rows(), nil
}

// firstWay counts what leads from an empty account to a WordPress by HTTPS. The way itself is controlplane/web/src/lab.walk.ts.
func firstWay(ctx context.Context, b *bench) (_ []row, err error) {
	archive, err := lab.EnsureWordPress(ctx, lab.Bookworm, nil)
	if err != nil {
		return nil, err
	}
	base, err := lab.EnsureBase(ctx, lab.Bookworm, lab.Stack, nil)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("/var/tmp", "chom-walk-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	mails := filepath.Join(dir, "mails")
	s, err := b.build(ctx, rig.Options{Archive: &archive, Names: true, Unclaimed: true, Args: []string{"--log-level=warn", "--mail-dir=" + mails}})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.close(ctx, err)) }()
	h, err := s.Lab.Boot(ctx, lab.Config{Name: "vps1", Base: base})
	if err != nil {
		return nil, err
	}
	walking, cancel := context.WithTimeout(ctx, dashboardLimit)
	defer cancel()
	walk := rig.LabWalk{Rig: s.Rig, Host: h, Mails: mails, Home: filepath.Join(dir, "home")}
	var said bytes.Buffer
	// Its later parts count nothing.
	err = walk.Run(walking, ".", &said, "--testNamePattern=operator begins|adds a server|make a WordPress|has a certificate")
	b.detail("%s", &said)
	if err != nil {
		return nil, fmt.Errorf("%w:\n%s", err, &said)
	}
	return []row{
		{Name: "clicks from an empty account to a WordPress by HTTPS", Value: float64(walk.Clicks), Unit: "clicks", Statistic: "once", Runs: 1, Bar: atMost(8)},
		{Name: "the same way, with one pasted line", Value: walk.Seconds, Unit: "s", Statistic: "once", Runs: 1},
	}, nil
}

// measured is what the walk writes: times in milliseconds, sizes in bytes.
type measured struct {
	Login, Overview, Keys, Steps []float64
	Scripts                      float64
	Lighthouse                   map[string]struct{ Accessibility, BestPractices float64 }
}

func (m measured) rows() []row {
	rows := []row{
		timed("the login page until it takes a key, a processor 4 times as slow", m.Login, "median", 50, 2000),
		timed("the overview of 1,000 sites until it is there, the same", m.Overview, "median", 50, 2000),
		{Name: "scripts that the overview loads, compressed", Value: m.Scripts / 1000, Unit: "kB", Statistic: "once", Runs: 1, Bar: atMost(300)},
		timed("1,000 sites, from a key to its paint", m.Keys, "p95", 95, 100),
		timed("a step on a host until it shows", m.Steps, "p95", 95, 1000),
	}
	for _, page := range []string{"login", "overview", "sites", "site"} {
		rows = append(rows,
			row{Name: "Lighthouse, accessibility: " + page, Value: m.Lighthouse[page].Accessibility, Unit: "of 100", Statistic: "once", Runs: 1, Bar: atLeast(95)},
			row{Name: "Lighthouse, best practices: " + page, Value: m.Lighthouse[page].BestPractices, Unit: "of 100", Statistic: "once", Runs: 1, Bar: atLeast(95)})
	}
	return rows
}

func timed(name string, runs []float64, statistic string, p, limit float64) row {
	var took []time.Duration
	for _, ms := range runs {
		took = append(took, time.Duration(ms*float64(time.Millisecond)))
	}
	return row{Name: name, Value: ms(percentile(took, p)), Unit: "ms", Statistic: statistic, Runs: len(took), Bar: atMost(limit)}
}

// forward opens a door on loopback to an address, until it is closed.
func forward(to string) (door string, closeDoor func(), err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	go func() {
		for {
			from, err := l.Accept()
			if err != nil {
				return // closed
			}
			go carry(from, to)
		}
	}()
	return fmt.Sprintf("localhost:%d", l.Addr().(*net.TCPAddr).Port), func() { _ = l.Close() }, nil
}

// carry carries what is said until either side has nothing more to say.
func carry(from net.Conn, to string) {
	defer from.Close()
	other, err := net.Dial("tcp", to)
	if err != nil {
		return // the browser sees that nobody answers
	}
	defer other.Close()
	ended := make(chan struct{}, 2)
	pass := func(to, from net.Conn) {
		_, _ = io.Copy(to, from) // a side that went away is an end like any other
		ended <- struct{}{}
	}
	go pass(other, from)
	go pass(from, other)
	<-ended
}
