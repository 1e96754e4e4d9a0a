package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"time"

	fleetv1 "chom.dev/proto/gen/chom/fleet/v1"
	taskv1 "chom.dev/proto/gen/chom/task/v1"

	"chom.dev/packaging/lab"
	"chom.dev/packaging/rig"
)

// stage is a CHOM of one figure: figures share nothing, so that none changes
// another and each can be run alone.
type stage struct {
	*rig.Rig
	b       *bench
	dir     string
	metrics string // address of chomd's
}

// metricsPort is that of chomd's metrics, on the lab's gateway: its default
// address may be another chomd's.
const metricsPort = 9464

// build makes a lab and a chomd in it. Close it, always.
func (b *bench) build(ctx context.Context, o rig.Options) (_ *stage, err error) {
	s := &stage{b: b}
	if s.dir, err = os.MkdirTemp("/var/tmp", "chom-bench-"); err != nil { // never a RAM disk: fsync is part of what is measured
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.remove(ctx, o.Lab))
		}
	}()
	log := slog.New(slog.NewTextHandler(b.progress, &slog.HandlerOptions{Level: slog.LevelWarn}))
	if o.Lab, err = lab.New(ctx, lab.Options{Ephemeral: true, Log: log}); err != nil {
		return nil, err
	}
	o.Dir, o.Bin, o.Packages, o.Log = s.dir, b.bin, b.packages, log
	s.metrics = fmt.Sprintf("%s:%d", o.Lab.Gateway(), metricsPort)
	o.Args = append(o.Args, "--metrics-listen="+s.metrics)
	if s.Rig, err = rig.Start(ctx, o); err != nil {
		return nil, err
	}
	return s, nil
}

// close ends the stage. After an error it first shows what chomd and the
// agents had to say.
func (s *stage) close(ctx context.Context, failed error) error {
	if failed != nil && s.b.verbose {
		s.blame(context.WithoutCancel(ctx))
	}
	return errors.Join(s.Stop(ctx), s.remove(ctx, s.Lab))
}

func (s *stage) remove(ctx context.Context, l *lab.Lab) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute) // also when the run was interrupted
	defer cancel()
	var err error
	if l != nil {
		err = l.Down(ctx)
	}
	return errors.Join(err, os.RemoveAll(s.dir))
}

func (s *stage) blame(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	s.b.say("chomd's last words:\n%s", s.Tail(20))
	for _, h := range s.Lab.Hosts() {
		words, err := h.Output(ctx, "journalctl", "--no-pager", "--lines=20", "--unit=chom-agent")
		if err != nil {
			words = err.Error()
		}
		s.b.say("agent on %s:\n%s", h.Name(), words)
	}
}

// server boots a host on which apt has nothing left to do, and brings it to
// where it takes sites.
func (s *stage) server(ctx context.Context) (*lab.Host, *fleetv1.Server, error) {
	base, err := lab.EnsureBase(ctx, lab.Bookworm, lab.Stack, s.Log)
	if err != nil {
		return nil, nil, err
	}
	h, err := s.Lab.Boot(ctx, lab.Config{Name: "vps1", Base: base})
	if err != nil {
		return nil, nil, err
	}
	joined, err := s.Join(ctx, h, nil)
	if err != nil {
		return nil, nil, err
	}
	server, err := s.Prepared(ctx, joined.GetId(), nil)
	if err != nil {
		return nil, nil, fmt.Errorf("prepare %s: %w", h.Name(), err)
	}
	return h, server, nil
}

func (s *stage) organization(ctx context.Context) (string, error) {
	return s.Organization(ctx, "bench", "owner@bench.example", "bench.example")
}

// steps shows where a task's time went, in milliseconds since it was created:
// when it was accepted, when each step began and how long it took, and what
// the host said meanwhile.
func (b *bench) steps(t *taskv1.Task, said []*taskv1.LogLine) {
	if !b.verbose {
		return
	}
	type moment struct {
		at   time.Time
		text string
	}
	moments := []moment{{t.GetStartTime().AsTime(), "known as accepted"}, {t.GetEndTime().AsTime(), "the end is known"}}
	for _, s := range t.GetSteps() {
		begin := s.GetStartTime().AsTime()
		moments = append(moments, moment{begin, fmt.Sprintf("%s: %.0f %s", s.GetName(), ms(s.GetEndTime().AsTime().Sub(begin)), s.GetMessage())})
	}
	for _, l := range said {
		moments = append(moments, moment{l.GetTime().AsTime(), "  " + l.GetText()})
	}
	slices.SortStableFunc(moments, func(a, b moment) int { return a.at.Compare(b.at) })
	for _, m := range moments {
		b.detail("%7.0f  %s", ms(m.at.Sub(t.GetCreateTime().AsTime())), m.text)
	}
}
