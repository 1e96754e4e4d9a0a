package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"slices"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"chom.dev/agent/certificate"
	"chom.dev/agent/clock"
	"chom.dev/agent/identity"
	"chom.dev/agent/journal"
	"chom.dev/agent/link"
	"chom.dev/agent/nginx"
	"chom.dev/agent/sitelog"
	"chom.dev/agent/task"
	"chom.dev/agent/telemetry"
	"chom.dev/proto/contract"
	linkv1 "chom.dev/proto/gen/chom/link/v1"
)

// The agent is a guest on a small server: it collects garbage more often than
// a program that may take what it likes.
const (
	gcPercent   = 50
	memoryLimit = 64 << 20 // soft; above it the collector works harder, the unit's MemoryMax is the wall
)

func runCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "run",
		Short: "Run the agent (what the systemd unit does)",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := loadConfig(cmd, os.Environ())
			if err != nil {
				return err
			}
			if cfg.Server == "" {
				return errors.New("no server is configured: set it in " + cfg.file + " or by --server")
			}
			debug.SetGCPercent(gcPercent)
			debug.SetMemoryLimit(memoryLimit)
			return runAgent(cmd.Context(), cfg, cfg.logger(cmd.ErrOrStderr()))
		},
	}
}

// runAgent is the whole agent.
func runAgent(ctx context.Context, cfg *config, log *slog.Logger) (err error) {
	log.Info("agent starts", "version", version)
	store, err := identity.NewStore(cfg.identityDir())
	if err != nil {
		return err
	}
	id, err := awaitIdentity(ctx, store, log)
	if err != nil || id == nil {
		return err
	}
	log = log.With("server", id.Server)

	jrnl, err := journal.Open(cfg.journalFile(), id.Server.String(), log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, jrnl.Close()) }()

	metrics, err := telemetry.NewMetrics(log)
	if err != nil {
		return err
	}
	var (
		now   clock.Clock
		later parts
		hands *host
		sizes *telemetry.Sizes
	)
	certs, err := certificate.New(certificate.Config{
		Dir:      cfg.certificatesDir(),
		Broker:   &later,
		Registry: &later,
		Serve: func(ctx context.Context, sites []contract.SiteID) ([]contract.SiteID, error) {
			return hands.sites.Secure(ctx, later.Engine, sites)
		},
		Clock: &now,
		Log:   log,
	})
	if err != nil {
		return err
	}
	if hands, err = newHost(cfg.backupDir(), &later, certs, log); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, hands.close()) }()
	host := telemetry.NewHost(version, sitesDir, hands.software, log)
	engine, err := task.New(task.Config{
		Server:   id.Server,
		Journal:  jrnl,
		Handlers: hands.handlers(),
		Signers:  id.Signers,
		Clock:    &now,
		Log:      log,
		Ended: func(o task.Order) {
			if o.Kind == task.PrepareServer { // what it installed is news
				host.Forget()
				later.RefreshFacts()
			}
			if o.Kind == task.ConvergeSite {
				certs.Wake()
			}
			if o.Kind == task.ConvergeSite || o.Kind == task.RestoreSite || o.Kind == task.UndoRestore {
				sizes.Changed(o.Site.ID)
			}
		},
	})
	if err != nil {
		return err
	}
	sizes = telemetry.NewSizes(engine, cfg.sizesFile(), &now, hands.sites.Size, log)
	sites := telemetry.NewSites(engine, cfg.trafficFile(), nginx.AccessLog, log)
	lnk := link.New(link.Config{
		Address:  cfg.Server,
		Identity: store,
		Tasks:    engine,
		Clock:    &now,
		Log:      log,
		Facts:    host.Facts,
		Samples: func(ctx context.Context) []*linkv1.Sample {
			return slices.Concat(metrics.Gather(ctx), sites.Gather(ctx), sizes.Gather(ctx))
		},
		Issuance: certs.SetIssuance,
		Logs:     sitelog.New(sitelog.Config{Registry: engine, Access: nginx.AccessLog, Error: nginx.ErrorLog, Log: log}),
	})
	later = parts{engine, lnk}
	status := &reporter{cfg: cfg, store: store, journal: jrnl, engine: engine, link: lnk, clock: &now, log: log}

	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return engine.Run(ctx) })
	g.Go(func() error { return lnk.Run(ctx) })
	g.Go(func() error { return status.Run(ctx) })
	g.Go(func() error { return host.Watch(ctx, lnk.RefreshFacts) })
	g.Go(func() error { return hands.sites.Probe(ctx, engine) })
	g.Go(func() error { return sizes.Run(ctx) })
	g.Go(func() error { return hands.sites.Settle(ctx, engine) })
	g.Go(func() error { return hands.sites.ForgetRestores(ctx, engine, &now) })
	g.Go(func() error { return hands.sites.KeepSchedules(ctx, engine, lnk, &now) })
	g.Go(func() error {
		hands.refresh(ctx, log)
		return certs.Run(ctx)
	})
	g.Go(func() error { return watchdog(ctx, jrnl, lnk, log) })
	tellSystemd(log, daemon.SdNotifyReady)
	<-ctx.Done()
	tellSystemd(log, daemon.SdNotifyStopping)
	if err = g.Wait(); errors.Is(err, context.Canceled) {
		err = nil // stopping on request is no failure, whoever noticed first
	}
	log.Info("agent ends", "err", err)
	return err
}

// parts are what is made after those that need it, and used once all of it runs.
type parts struct {
	*task.Engine
	*link.Link
}

// awaitIdentity waits until the host is enrolled. Nil means that the agent was
// stopped meanwhile.
func awaitIdentity(ctx context.Context, store *identity.Store, log *slog.Logger) (*identity.Identity, error) {
	told := false
	for {
		id, err := store.Current()
		if !errors.Is(err, identity.ErrNone) {
			return id, err
		}
		if !told {
			log.Warn("agent waits to be enrolled", "err", err)
			tellSystemd(log, daemon.SdNotifyReady)
			told = true
		}
		tellSystemd(log, daemon.SdNotifyWatchdog)
		select {
		case <-ctx.Done():
			return nil, nil
		case <-time.After(2 * time.Second):
		}
	}
}

// watchdog feeds systemd's watchdog, but only after the journal has committed
// and while the link moves or waits as designed. Whatever else hangs, a new
// process is the cure.
//
// A full disk is no reason: the journal has answered, and a restart makes no
// room.
func watchdog(ctx context.Context, jrnl *journal.Journal, lnk *link.Link, log *slog.Logger) error {
	limit, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		return fmt.Errorf("read the watchdog's interval: %w", err)
	}
	if limit == 0 {
		<-ctx.Done()
		return nil
	}
	tick := time.NewTicker(limit / 3)
	defer tick.Stop()
	for {
		if err := healthy(jrnl, lnk); err != nil {
			log.Error("watchdog is not fed", "err", err)
		} else {
			tellSystemd(log, daemon.SdNotifyWatchdog)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func healthy(jrnl *journal.Journal, lnk *link.Link) error {
	if err := jrnl.Beat(); err != nil && !journal.Full(err) {
		return err
	}
	return lnk.Alive()
}

// tellSystemd is heard only where systemd runs us.
func tellSystemd(log *slog.Logger, state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.Warn("systemd was not told", "state", state, "err", err)
	}
}
