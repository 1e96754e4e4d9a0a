package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/net/netutil"
	"golang.org/x/sync/errgroup"

	orderv1 "chom.dev/proto/gen/chom/order/v1"

	"chom.dev/controlplane/account"
	"chom.dev/controlplane/api"
	"chom.dev/controlplane/audit"
	"chom.dev/controlplane/backup"
	certs "chom.dev/controlplane/certificate"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/domain"
	"chom.dev/controlplane/fleet"
	"chom.dev/controlplane/install"
	"chom.dev/controlplane/limit"
	"chom.dev/controlplane/link"
	notices "chom.dev/controlplane/notify"
	"chom.dev/controlplane/organization"
	"chom.dev/controlplane/outbound"
	"chom.dev/controlplane/outbox"
	"chom.dev/controlplane/password"
	"chom.dev/controlplane/pki"
	"chom.dev/controlplane/repeat"
	"chom.dev/controlplane/secret"
	"chom.dev/controlplane/site"
	"chom.dev/controlplane/sitelog"
	"chom.dev/controlplane/task"
	"chom.dev/controlplane/token"
	"chom.dev/proto/contract"
)

// stopWithin is how long an orderly end may take; systemd and impatient people kill after more.
const stopWithin = 4500 * time.Millisecond

// gcPercent keeps the heap of thousands of quiet agents close to what is live; collecting it more often costs little, since
// it is small. GOGC in the environment overrides it.
const gcPercent = 50

// serve builds the control plane, in the order in which its parts need each other, and runs it until ctx ends.
func serve(ctx context.Context, c config, log *slog.Logger, console io.Writer) (err error) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	if err := c.makeDataDir(); err != nil {
		return err
	}
	d, err := db.Open(ctx, c.Database, db.WithLogger(log))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	if err := db.Migrate(ctx, d); err != nil {
		return err
	}
	authority, err := pki.Open(c.pkiDir())
	if err != nil {
		return err
	}
	d.SetSealKey(authority.SealKey())
	keyring, err := c.openSecrets(ctx, d, log)
	if err != nil {
		return err
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))

	heads, err := audit.OpenHeads(d, c.headsFile(), log)
	if err != nil {
		return err
	}

	people, err := net.Listen("tcp", c.PeopleListen)
	if err != nil {
		return fmt.Errorf("listen for people: %w", err)
	}
	defer people.Close() //nolint:errcheck // its server closes it first
	agents, err := net.Listen("tcp", c.AgentsListen)
	if err != nil {
		return fmt.Errorf("listen for agents: %w", err)
	}
	defer agents.Close() //nolint:errcheck // its server closes it first
	address := c.addresses(people.Addr().String(), agents.Addr().String())

	// What reaches people and programs outside.
	mails, err := c.openMails(d, keyring, log, registry, address)
	if err != nil {
		return err
	}
	outside, err := outbox.Open(d, log, registry)
	if err != nil {
		return err
	}

	// The nouns.
	quota, err := c.quota()
	if err != nil {
		return err
	}
	organizations := organization.New(d, organization.Config{
		Log: log, ClosePeriod: c.ClosePeriod, URL: address.URL, Mail: mails.Enqueue, Quota: organization.Quota{BackupBytes: quota},
	})
	webhooks, err := c.openWebhooks(d, keyring, log, mails, organizations, address)
	if err != nil {
		return err
	}
	outside.Add(mails.Queue())
	outside.Add(webhooks.Queue())
	tokens := token.New(d, log, organizations, token.ImpersonateFor(c.ImpersonationPeriod))
	limits, err := c.limiter(log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, limits.Close()) }()
	accounts, err := c.accounts(d, log, mails, keyring, tokens, limits, address)
	if err != nil {
		return err
	}
	servers := fleet.New(d, log)
	var backups *backup.Backups // which tasks and they need of each other
	tasks, err := task.NewTasks(d, authority.Signer(), log, registry,
		task.OnEnd(task.ConvergeSite, site.EndedWith(certs.Observe)), task.OnEnd(task.PrepareServer, fleet.PrepareEnded),
		task.OnEnd(task.BackupSite, backup.Ended), task.OnEnd(task.RestoreSite, backup.RestoreEnded), task.OnEnd(task.UndoRestore, backup.UndoEnded),
		task.OnLateEnd(task.RestoreSite, backup.RestoreLate), task.OnLateEnd(task.UndoRestore, backup.UndoLate),
		task.OnEnd(task.DrillSite, func(ctx context.Context, tx *db.Tx, t task.Task, result *orderv1.Result) error {
			return backups.DrillEnded(ctx, tx, t, result)
		}),
		task.Retain(c.TaskRetention))
	if err != nil {
		return err
	}
	targets, err := c.openTargets(ctx, d, keyring, log)
	if err != nil {
		return err
	}
	backups, repositories, err := c.openBackups(ctx, d, log, targets.Store(), backup.Config{
		Keys: keyring, Signer: authority.Signer(), Tasks: tasks, Mails: mails, Organizations: organizations, Metrics: registry, PublicURL: address.URL,
	})
	if err != nil {
		return err
	}
	if former := authority.FormerSigner(); former != nil {
		if err := errors.Join(tasks.Reseal(ctx, former), backups.Resign(ctx, former)); err != nil {
			return err
		}
		if err := authority.ForgetFormer(); err != nil {
			return err
		}
	}
	wordPress, err := c.wordPress()
	if err != nil {
		return err
	}
	dialer, err := c.dialer()
	if err != nil {
		return err
	}
	issuers, err := c.issuers()
	if err != nil {
		return err
	}
	platform, err := pki.OpenPlatform(c.pkiDir(), cmp.Or(c.preview(), site.DefaultPreviewDomain), time.Now())
	if err != nil {
		return err
	}
	issuers.message.PlatformRoots = platform.Roots()
	resolver := domain.NewResolver(c.Resolver)
	resolving, err := c.dialer(outbound.WithResolver(resolver))
	if err != nil {
		return err
	}
	var certificates *certs.Certificates // which sites and they need of each other
	sites := site.New(d, tasks, log, site.Config{
		TrashPeriod: c.TrashPeriod, WordPress: wordPress, AnyName: c.DomainProof == "none", PreviewDomain: c.preview(),
		Budget: c.Budget, CAs: issuers.caa, Resolver: domain.NewNameServer(c.Resolver), Dialer: dialer, PublicAddress: dialer.Allows,
		Provider: domain.HasProvider, RecordsTopic: domain.RecordsTopic, ProvidersTopic: domain.ProvidersTopic, WantAddresses: domain.WantAddresses,
		HasPolicy: backup.HasPolicy, Schedule: backups.Schedule(), ScheduleRevision: backups.ScheduleRevision(), PoliciesTopic: backup.PoliciesTopic,
		Uploads: uploadedFor, Measured: certs.Observe, Outside: measuredOutside,
		CheckOutside: func(ctx context.Context, organization contract.OrganizationID, site contract.SiteID, names []contract.Domain) error {
			return certificates.CheckNow(ctx, organization, site, names)
		},
	})
	certificates, err = certs.New(d, log, certs.Config{
		Keys: keyring, Mails: mails, Organizations: organizations, Metrics: registry, PublicURL: address.URL, Roots: issuers.rootsPEM(),
		Dialer: resolving,
		Names:  sites.Held, Changed: sites.Recertify,
	})
	if err != nil {
		return err
	}
	domains := domain.New(d, log, domain.Config{Resolver: resolver, InUse: site.InUse})
	providers, err := c.openProviders(d, keyring, log)
	if err != nil {
		return err
	}

	history, err := c.openMetrics(d, log, registry)
	if err != nil {
		return err
	}

	// The doors.
	logs := sitelog.New()
	agentsDoor, err := link.New(link.Config{
		DB: d, Log: log, Metrics: registry, Authority: authority, Fleet: servers, Tasks: tasks, Sites: sites,
		Certificates: &handouts{config: c.issuersConfig, issuance: issuers.message, platform: platform, uploads: certificates, challenges: providers},
		Backups:      repositories, Repositories: backups, History: history, Logs: logs,
	})
	if err != nil {
		return err
	}
	packages := install.NewPackages(c.PackagesDir)
	closing, closeStreams := context.WithCancel(context.WithoutCancel(ctx))
	defer closeStreams()
	proxies, err := c.proxies()
	if err != nil {
		return err
	}
	origins, err := c.origins()
	if err != nil {
		return err
	}
	repeats := repeat.New(d, log)
	handler, err := api.New(api.Config{
		DB: d, Log: log, Metrics: registry, Accounts: accounts, Organizations: organizations, Tokens: tokens, Fleet: servers, Sites: sites, Tasks: tasks,
		Domains: domains, Providers: providers, Certificates: certificates, Backups: backups, Targets: targets, History: history, Mails: mails, Webhooks: webhooks, Packages: packages, Address: address, Pin: authority.Pin(), PreviewCA: c.previewCA(platform), Ready: d.Ping, TLS: c.tls(), Closing: closing,
		Limits: limits, Repeats: repeats, Proxies: proxies, Origins: origins, Logs: logs,
	})
	if err != nil {
		return err
	}
	peoplesDoor := newPeopleServer(handler, log)
	var shown *certificate // nil where people speak plain HTTP
	if c.tls() {
		if shown, err = openCertificate(c.PeopleCert, c.PeopleKey, log); err != nil {
			return err
		}
	}

	keeper, err := c.keeper(d, log, registry)
	if err != nil {
		return err
	}

	// All of it, until ctx ends or a part does.
	work, stopWork := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWork()
	g, running := errgroup.WithContext(work)
	g.Go(func() error { return tasks.Run(running) })
	g.Go(func() error { return accounts.Run(running) })
	g.Go(func() error { return servers.Run(running) })
	g.Go(func() error { return sites.Run(running) })
	g.Go(func() error { return domains.Run(running) })
	g.Go(func() error { return certificates.Run(running) })
	g.Go(func() error { return providers.Run(running) })
	g.Go(func() error { return backups.Run(running) })
	g.Go(func() error { return history.Run(running) })
	g.Go(func() error { return repeats.Run(running) })
	g.Go(func() error { return heads.Run(running) })
	g.Go(func() error { return organizations.Run(running) })
	g.Go(func() error { return tokens.Run(running) })
	g.Go(func() error { return keyring.Run(running, d) })
	if keeper != nil {
		g.Go(func() error { return keeper.Run(running) })
	}
	sending, stopSending := context.WithCancel(running)
	defer stopSending()
	g.Go(func() error {
		if err := outside.Run(sending); !errors.Is(err, context.Canceled) {
			return err
		}
		return nil // the others go on until the doors are shut
	})
	g.Go(func() error { return agentsDoor.Run(running) })
	g.Go(func() error { return agentsDoor.Serve(agents) })
	if shown != nil {
		g.Go(func() error { return shown.Run(running) })
	}
	g.Go(func() error { return servePeople(peoplesDoor, people, shown) })
	stopMetrics, err := c.serveMetrics(g, registry)
	if err != nil {
		return errors.Join(err, peoplesDoor.Close(), agentsDoor.Shutdown(ctx))
	}
	g.Go(func() error {
		select {
		case <-ctx.Done():
		case <-running.Done(): // a part failed: the others stop too
		}
		log.Info("stopping")
		notify(log, "STOPPING=1")
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopWithin)
		defer cancel()
		closeStreams()
		stopSending() // what is under way is finished meanwhile
		var stop errgroup.Group
		stop.Go(func() error { return agentsDoor.Shutdown(end) })
		stop.Go(func() error { return errors.Join(peoplesDoor.Shutdown(end), stopMetrics(end)) })
		err := stop.Wait()
		if err != nil {
			err = errors.Join(err, peoplesDoor.Close())
		}
		stopWork()
		return err
	})

	if err := c.firstOperator(ctx, accounts, address, console); err != nil && ctx.Err() == nil {
		closeStreams()
		stopWork()
		return errors.Join(err, peoplesDoor.Close(), agentsDoor.Shutdown(ctx), g.Wait())
	}
	c.greet(log, address, people, agents, packages)
	notify(log, "READY=1")
	if err := g.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	log.Info("stopped")
	return nil
}

// accounts are the people who may call.
func (c *config) accounts(d *db.DB, log *slog.Logger, mails *notices.Mails, keyring *secret.Keyring, tokens *token.Tokens, limits *limit.Limiter, address install.Address) (*account.Accounts, error) {
	needs := account.Config{
		Log: log, Passwords: password.NewHasher(password.Today), Mails: mails, Seals: keyring, Limits: tries{limits}, Tokens: tokens, URL: address.URL,
	}
	if c.SignUp == "invited" {
		needs.Invited = organization.Invited
	}
	return account.New(d, needs)
}

// tries bounds guessing by the same counts as the door's.
type tries struct{ *limit.Limiter }

// Allow implements account.Limiter.
func (t tries) Allow(ctx context.Context, key, class string) error {
	return t.Take(ctx, class, key).Err()
}

// Limits of the people's listener. Calls have their own (api/door.go).
const (
	maxConnections = 4096 // each may hold some tens of KiB
	maxStreams     = 100  // of one HTTP/2 connection: a dashboard with many watches open
	maxHeaders     = 32 << 10
	headersWithin  = 10 * time.Second
	idleFor        = 2 * time.Minute
)

func newPeopleServer(handler http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: headersWithin,
		IdleTimeout:       idleFor,
		MaxHeaderBytes:    maxHeaders,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug), // strangers' broken handshakes
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: maxStreams, SendPingTimeout: 30 * time.Second, PingTimeout: 15 * time.Second},
		Protocols:         new(http.Protocols),
	}
}

// servePeople speaks HTTPS with a certificate, and plain HTTP without one.
func servePeople(server *http.Server, listener net.Listener, shown *certificate) error {
	listener = netutil.LimitListener(listener, maxConnections)
	server.Protocols.SetHTTP1(true)
	var err error
	if shown != nil {
		server.Protocols.SetHTTP2(true)
		server.TLSConfig = &tls.Config{GetCertificate: shown.Get, MinVersion: tls.VersionTLS12}
		err = server.ServeTLS(listener, "", "")
	} else {
		server.Protocols.SetUnencryptedHTTP2(true) // for gRPC
		err = server.Serve(listener)
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve people: %w", err)
}

// serveMetrics answers Prometheus on a listener of its own, so that no proxy in front of the people's door can show it.
func (c *config) serveMetrics(g *errgroup.Group, registry *prometheus.Registry) (stop func(context.Context) error, err error) {
	if c.MetricsListen == "" {
		return func(context.Context) error { return nil }, nil
	}
	listener, err := net.Listen("tcp", c.MetricsListen)
	if err != nil {
		return nil, fmt.Errorf("listen for metrics: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4, Timeout: 10 * time.Second}))
	server := &http.Server{Handler: mux, ReadTimeout: headersWithin, WriteTimeout: 20 * time.Second, IdleTimeout: idleFor, MaxHeaderBytes: maxHeaders}
	g.Go(func() error {
		if err := server.Serve(netutil.LimitListener(listener, 32)); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve metrics: %w", err)
		}
		return nil
	})
	return server.Shutdown, nil
}

// greet says in the log what is open, and what an operator should know of it.
func (c *config) greet(log *slog.Logger, address install.Address, people, agents net.Listener, packages *install.Packages) {
	log.Info("serving", "version", version, "people", people.Addr().String(), "agents", agents.Addr().String(),
		"url", address.URL, "agent_address", address.Agents)
	if !c.tls() && !isLoopback(people.Addr().String()) {
		log.Warn("people-listen speaks plain HTTP beyond loopback: everybody on the way can read tokens")
	}
	if _, _, err := packages.Manifest(); err != nil {
		log.Warn("new servers cannot be installed", "err", err)
	}
}

// firstOperator shows the one-time secret on the console, while there is no operator. It goes nowhere else: not to the log.
func (c *config) firstOperator(ctx context.Context, accounts *account.Accounts, address install.Address, console io.Writer) error {
	secret, err := accounts.PrepareFirstOperator(ctx)
	if err != nil || secret == "" {
		return err
	}
	_, err = fmt.Fprintf(console, `
There is no operator yet. This secret makes the first one, once; the next start prints another:

    %s

    chom login --url %s --setup-secret --email YOU@EXAMPLE.COM

`, secret, address.URL)
	return err
}

func notify(log *slog.Logger, state string) {
	if err := notifySystemd(state); err != nil {
		log.Warn("systemd does not hear of this process", "err", err)
	}
}
