package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	fleetv1 "chom.dev/proto/gen/chom/fleet/v1"
	sitev1 "chom.dev/proto/gen/chom/site/v1"
	taskv1 "chom.dev/proto/gen/chom/task/v1"

	"chom.dev/packaging/lab"
	"chom.dev/packaging/rig"
)

const (
	labName   = "demo"
	hostName  = "vps1"
	domain    = "hello.demo.test" // .test is reserved for this by RFC 2606
	siteTitle = "Hello from CHOM"
	owner     = "owner@demo.test"
)

type demo struct {
	state, bin, dist string
	say              *teller
}

// up brings the demo to where the page answers. What is there already is kept:
// a second run only looks.
func (d demo) up(ctx context.Context) error {
	begin := time.Now()
	if s, err := d.load(); err == nil && s.Done {
		if err := d.look(ctx, s); err == nil {
			d.summary(s, begin)
			return nil
		}
		d.say.line("the demo of an earlier run is not whole; starting over")
		if err := d.down(ctx); err != nil {
			return err
		}
	} else if err == nil {
		d.say.line("an earlier run broke off; starting over")
		if err := d.down(ctx); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(d.state, 0o700); err != nil {
		return err
	}
	s := &state{}
	if err := d.save(s); err != nil {
		return err
	}

	base, archive, err := d.fetch(ctx)
	if err != nil {
		return err
	}

	var l *lab.Lab
	var h *lab.Host
	err = d.say.timed("boot a VPS: Debian 12, nothing installed", func() error {
		if l, err = lab.New(ctx, lab.Options{Name: labName, Log: d.log()}); err != nil {
			return err
		}
		h, err = l.Boot(ctx, lab.Config{Name: hostName, Base: base})
		return err
	})
	if err != nil {
		return err
	}

	var r *rig.Rig
	err = d.say.timed("start the control plane, create the first operator", func() error {
		if err := d.startMirror(s, l, archive); err != nil {
			return err
		}
		r, err = rig.Start(ctx, rig.Options{
			Lab: l, Dir: d.state, Bin: d.bin, Packages: d.dist,
			Archive: &archive, MirrorElsewhere: true, Outlive: true, Log: d.log(),
		})
		if err != nil {
			return err
		}
		s.URL, s.Token, s.Host = r.URL(), r.Token, h.Addr().String()
		s.Processes = append(s.Processes, identify(r.Pid()))
		return d.save(s)
	})
	if err != nil {
		return err
	}

	var server *fleetv1.Server
	err = d.say.timed("paste the one line on the VPS: it installs the agent and enrols it", func() error {
		server, err = r.Join(ctx, h, d.say)
		return err
	})
	if err != nil {
		return err
	}
	err = d.say.timed("the agent installs nginx, PHP and MariaDB", func() error {
		_, err := r.Prepared(ctx, server.GetId(), d.say.steps())
		return err
	})
	if err != nil {
		return err
	}
	if err := d.createSite(ctx, r, h, s); err != nil {
		return err
	}
	s.Done = true
	if err := d.save(s); err != nil {
		return err
	}
	d.summary(s, begin)
	return nil
}

// fetch makes what is cached outside of the tree.
func (d demo) fetch(ctx context.Context) (base lab.Base, archive lab.Archive, err error) {
	err = d.say.timed("fetch Debian 12 and its WordPress (cached after the first time)", func() error {
		g, ctx := errgroup.WithContext(ctx)
		g.Go(func() (err error) {
			base, err = lab.EnsureBase(ctx, lab.Bookworm, lab.Fresh, d.log())
			return err
		})
		g.Go(func() (err error) {
			archive, err = lab.EnsureWordPress(ctx, lab.Bookworm, d.log())
			return err
		})
		return g.Wait()
	})
	return base, archive, err
}

// createSite makes the organization and its site, and visits the page.
func (d demo) createSite(ctx context.Context, r *rig.Rig, h *lab.Host, s *state) error {
	organization, err := r.Organization(ctx, "demo", owner, domain)
	if err != nil {
		return err
	}
	if err := addName(h.Addr().String(), domain); err != nil {
		return err
	}
	return d.say.timed("create a WordPress site, until its home page answers", func() error {
		res, err := r.Sites.CreateSite(ctx, &sitev1.CreateSiteRequest{
			OrganizationId: organization,
			Name:           "hello",
			Type:           "wordpress",
			Domains:        []string{domain},
			Settings:       map[string]string{"title": siteTitle, "admin_user": "owner", "admin_email": owner},
		})
		if err != nil {
			return fmt.Errorf("create site: %w", err)
		}
		s.Organization, s.Site = res.GetSite().GetOrganizationId(), res.GetSite().GetId()
		t, err := r.Wait(ctx, res.GetTask(), d.say.steps())
		if err != nil {
			return err
		}
		if t.GetState() != taskv1.State_STATE_SUCCEEDED {
			return fmt.Errorf("create site: %s: %s", t.GetState(), t.GetError())
		}
		if s.Preview = res.GetSite().GetPreviewDomain(); s.Preview != "" {
			if err := errors.Join(dropName(domain), addName(s.Host, domain+" "+s.Preview)); err != nil {
				return err
			}
		}
		_, err = rig.WaitPage(ctx, h, domain, http.StatusOK, siteTitle)
		return err
	})
}

// look proves that what an earlier run left still works.
func (d demo) look(ctx context.Context, s *state) error {
	l, err := lab.Open(labName, d.log())
	if err != nil {
		return err
	}
	h, ok := l.Host(hostName)
	if !ok || !h.Alive() {
		return errors.New("the VPS does not run")
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if _, err := rig.WaitPage(ctx, h, domain, http.StatusOK, siteTitle); err != nil {
		return err
	}
	_, err = rig.NewClient(s.URL, s.Token).Sites.GetSite(ctx, &sitev1.GetSiteRequest{OrganizationId: s.Organization, SiteId: s.Site})
	return err
}

func (d demo) summary(s *state, begin time.Time) {
	login := "no login link: "
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	res, err := rig.NewClient(s.URL, s.Token).Sites.CreateSiteLogin(ctx, &sitev1.CreateSiteLoginRequest{OrganizationId: s.Organization, SiteId: s.Site})
	if err != nil {
		login += err.Error()
	} else {
		login = res.GetUrl()
	}
	d.say.summary(begin, [][2]string{
		{"Site", "http://" + domain + "/   (the name is in this machine's /etc/hosts)"},
		{"The same by HTTPS", fmt.Sprintf("curl --cacert <(curl -s %s/preview-ca.pem) https://%s/", s.URL, s.Preview)},
		{"Its administration", login + "   (one use, 60 s; a new one: chom site login hello)"},
		{"Control plane", s.URL},
		{"Command line", fmt.Sprintf("export CHOM_CONFIG=%s; bin/chom login --url %s --token < %s",
			filepath.Join(d.state, "chom.json"), s.URL, filepath.Join(d.state, "token"))},
		{"The VPS", fmt.Sprintf("%s   (a shell on it: bin/chom-lab exec %s -- bash)", s.Host, hostName)},
		{"Remove it all", "make demo-down"},
	})
}

// startMirror leaves a process behind that serves the WordPress archive.
func (d demo) startMirror(s *state, l *lab.Lab, a lab.Archive) error {
	s.Mirror = mirror{Listen: fmt.Sprintf("%s:%d", l.Gateway(), rig.MirrorPort), Archive: a}
	if err := d.save(s); err != nil {
		return err
	}
	log, err := os.OpenFile(filepath.Join(d.state, "mirror.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(self, "mirror")
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	s.Processes = append(s.Processes, identify(cmd.Process.Pid))
	return d.save(s)
}

func (d demo) mirror(context.Context) error {
	s, err := d.load()
	if err != nil {
		return err
	}
	srv := &http.Server{Addr: s.Mirror.Listen, Handler: rig.Mirror(s.Mirror.Archive), ReadHeaderTimeout: 10 * time.Second}
	return srv.ListenAndServe()
}

func (d demo) log() *slog.Logger {
	f, err := os.OpenFile(filepath.Join(d.state, "demo.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(f, nil))
}
