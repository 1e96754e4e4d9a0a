package main

import (
	"context"
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"chom.dev/agent/backup"
	"chom.dev/agent/certificate"
	"chom.dev/agent/drill"
	"chom.dev/agent/mariadb"
	"chom.dev/agent/nginx"
	"chom.dev/agent/php"
	"chom.dev/agent/preflight"
	"chom.dev/agent/run"
	"chom.dev/agent/server"
	"chom.dev/agent/site"
	"chom.dev/agent/systemd"
	"chom.dev/agent/task"
	"chom.dev/agent/telemetry"
	"chom.dev/agent/tree"
)

// sitesDir holds all sites of the host.
const sitesDir = "/srv/chom/sites"

// host is what the agent can do on this machine.
type host struct {
	systemd *systemd.Host
	mariadb *mariadb.Server
	server  *server.Server
	sites   *site.Sites
}

func newHost(dir string, broker backup.Broker, certs *certificate.Manager, log *slog.Logger) (*host, error) {
	sd := systemd.New()
	agent, err := os.Executable()
	if err != nil {
		return nil, err
	}
	backups, err := backup.New(backup.Config{
		Dir: dir, RunDir: backup.RunDir, Broker: broker, Launch: backup.By(sd), Agent: agent, Log: log,
	})
	if err != nil {
		return nil, err
	}
	web := nginx.New(sd, log)
	fpm := php.New(sd, log)
	db, err := mariadb.New(mariadb.Socket)
	if err != nil {
		return nil, err
	}
	sites, err := site.New(sd, web, fpm, db, certs, backups, log)
	if err != nil {
		return nil, err
	}
	return &host{sd, db, server.New(sd, web, fpm, db), sites}, nil
}

func (h *host) close() error {
	h.systemd.Close()
	return h.mariadb.Close()
}

// handlers says who does which kind of order. A kind that is missing here is
// refused.
func (h *host) handlers() map[task.Kind]task.Handler {
	return map[task.Kind]task.Handler{
		task.Noop:          task.NoopHandler(),
		task.PrepareServer: h.server.Prepare(),
		task.ConvergeSite:  h.sites.Converge(),
		task.SiteLogin:     h.sites.Login(),
		task.BackupSite:    h.sites.Backup(),
		task.RestoreSite:   h.sites.Restore(),
		task.UndoRestore:   h.sites.UndoRestore(),
		task.DrillSite:     h.sites.Drill(),
	}
}

// refresh repairs what a person, a crash or an older agent left of nginx's
// configuration, on a host that was prepared.
func (h *host) refresh(ctx context.Context, log *slog.Logger) {
	if err := h.server.RefreshWeb(ctx); err != nil {
		log.Error("nginx's configuration cannot be brought up to date", "err", err)
	}
}

// software probes what the host has for sites.
func (h *host) software(ctx context.Context) telemetry.Software {
	var s telemetry.Software
	s.PHP, s.Nginx, s.MariaDB = h.server.Versions(ctx)
	s.Prepared = h.server.Prepared(ctx)
	s.Findings = preflight.Kernel()
	return s
}

// hiddenCommands are verbs that only the agent itself calls.
func hiddenCommands() []*cobra.Command {
	empty := &cobra.Command{
		Use:  "empty-tree DIR...",
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, dirs []string) error { return tree.Empty(cmd.Context(), dirs...) },
	}
	work := &cobra.Command{
		Use:  "site-backup",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return backup.Enter(cmd.Context(), cmd.InOrStdin(), cmd.OutOrStdout(), backup.Jobs(drill.Jobs()))
		},
	}
	list := &cobra.Command{
		Use:  "list-tree DIR",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, dirs []string) error {
			return site.ListTree(cmd.Context(), dirs[0], cmd.OutOrStdout())
		},
	}
	measure := &cobra.Command{
		Use:  "measure-tree DIR",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, dirs []string) error {
			return site.MeasureTree(cmd.Context(), dirs[0], cmd.OutOrStdout())
		},
	}
	define := &cobra.Command{
		Use:  "define-objects",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return site.DefineObjects(cmd.Context(), cmd.InOrStdin(), cmd.OutOrStdout())
		},
	}
	look := &cobra.Command{
		Use:  "look-at-drill",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return drill.Look(cmd.Context(), cmd.InOrStdin(), cmd.OutOrStdout())
		},
	}
	sandbox := &cobra.Command{
		Use: "sandbox", Short: "What runs as a site's user", Hidden: true,
		PersistentPreRun: func(*cobra.Command, []string) { _ = run.NiceSession() }, // or it does its work as others do theirs
	}
	sandbox.AddCommand(empty, work, list, measure, define, look)
	return []*cobra.Command{sandbox}
}
