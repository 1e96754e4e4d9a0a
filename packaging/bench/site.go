package main

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"net/http"
	"path"
	"time"

	fleetv1 "chom.dev/proto/gen/chom/fleet/v1"
	sitev1 "chom.dev/proto/gen/chom/site/v1"
	taskv1 "chom.dev/proto/gen/chom/task/v1"

	"chom.dev/packaging/lab"
	"chom.dev/packaging/rig"
)

const (
	siteRuns  = 7
	siteLimit = 2 * time.Minute // of one site
)

// scripts are the bare shell steps that do the same work.
//
//go:embed testdata/site.sh testdata/wordpress.sh testdata/static.sh testdata/install.php testdata/certbot.sh testdata/backup.sh
var scripts embed.FS

// siteType is what differs between the two figures.
type siteType struct {
	name       string
	settings   map[string]string // beside the title
	bar, ratio float64           // seconds; times the shell
}

func siteStatic(ctx context.Context, b *bench) ([]row, error) {
	return sites(ctx, b, siteType{name: "static", bar: 1.5, ratio: 2})
}

func siteWordPress(ctx context.Context, b *bench) ([]row, error) {
	return sites(ctx, b, siteType{
		name: "wordpress", bar: 6, ratio: 1.3,
		settings: map[string]string{"admin_user": "owner", "admin_email": "owner@bench.example"},
	})
}

// sites makes sites in turns, by CHOM and by the shell, on one host.
func sites(ctx context.Context, b *bench, typ siteType) (_ []row, err error) {
	archive, err := lab.EnsureWordPress(ctx, lab.Bookworm, nil)
	if err != nil {
		return nil, err
	}
	s, err := b.build(ctx, rig.Options{Archive: &archive})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.close(ctx, err)) }()
	org, err := s.organization(ctx)
	if err != nil {
		return nil, err
	}
	host, server, err := s.server(ctx)
	if err != nil {
		return nil, err
	}
	if err := pushScripts(host, archive); err != nil {
		return nil, err
	}
	var chom, shell []time.Duration
	for i := range siteRuns + 1 {
		ours, err := s.site(ctx, typ, org, host, server, i)
		if err != nil {
			return nil, fmt.Errorf("site %d by CHOM: %w", i, err)
		}
		bare, err := b.shellSite(ctx, typ, host, i)
		if err != nil {
			return nil, fmt.Errorf("site %d by shell: %w", i, err)
		}
		b.detail("%d: CHOM %.0f ms, shell %.0f ms", i, ms(ours), ms(bare))
		if i > 0 { // the first one warms: MariaDB, page cache, the agent's copy of the archive
			chom, shell = append(chom, ours), append(shell, bare)
		}
	}
	return []row{{
		Name: "API call to HTTP 200 with the title", Value: median(chom).Seconds(), Unit: "s",
		Statistic: "median", Runs: len(chom), Bar: atMost(typ.bar),
		Comparison: &comparison{With: "bare shell steps", Value: median(shell).Seconds(), Bar: atMost(typ.ratio)},
	}, {
		Name: "the slowest of them", Value: percentile(chom, 100).Seconds(), Unit: "s",
		Statistic: "max", Runs: len(chom),
		Comparison: &comparison{With: "bare shell steps", Value: percentile(shell, 100).Seconds()},
	}}, nil
}

// site creates a site, waits for its page, and puts it into the trash.
func (s *stage) site(ctx context.Context, typ siteType, org string, h *lab.Host, server *fleetv1.Server, n int) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, siteLimit)
	defer cancel()
	req := &sitev1.CreateSiteRequest{
		OrganizationId: org, Name: fmt.Sprintf("site%d", n), Type: typ.name, ServerId: server.GetId(),
		Domains:  []string{fmt.Sprintf("chom%d.bench.example", n)},
		Settings: map[string]string{"title": fmt.Sprintf("CHOM %d", n)},
	}
	for k, v := range typ.settings {
		req.Settings[k] = v
	}
	begin := time.Now()
	res, err := s.Sites.CreateSite(ctx, req)
	if err != nil {
		return 0, fmt.Errorf("create site: %w", err)
	}
	page := make(chan error, 1)
	var took time.Duration
	go func() {
		_, err := rig.WaitPage(ctx, h, req.Domains[0], http.StatusOK, req.Settings["title"])
		took = time.Since(begin)
		page <- err
	}()
	var said []*taskv1.LogLine
	task, err := s.Wait(ctx, res.GetTask(), func(m *taskv1.WatchTaskResponse) { said = append(said, m.GetLogLines()...) })
	if err == nil {
		s.b.steps(task, said)
	}
	if err == nil && task.GetState() != taskv1.State_STATE_SUCCEEDED {
		err = fmt.Errorf("task %s ended %s: %s", task.GetId(), task.GetState(), task.GetError())
	}
	if err != nil {
		cancel() // the page will not come
		return 0, errors.Join(err, <-page)
	}
	if err := <-page; err != nil {
		return 0, err
	}
	gone, err := s.Sites.DeleteSite(ctx, &sitev1.DeleteSiteRequest{OrganizationId: org, SiteId: res.GetSite().GetId()})
	if err != nil {
		return 0, fmt.Errorf("delete site: %w", err)
	}
	_, err = s.WaitDone(ctx, gone.GetTask())
	return took, err
}

// scriptDir holds the shell's scripts on the host, and the archive that it unpacks.
const scriptDir = "/opt/bench"

func pushScripts(h *lab.Host, a lab.Archive) error {
	entries, err := scripts.ReadDir("testdata")
	if err != nil {
		return err
	}
	for _, e := range entries {
		text, err := scripts.ReadFile("testdata/" + e.Name())
		if err != nil {
			return err
		}
		if err := h.WriteFile(path.Join(scriptDir, e.Name()), text, 0o755); err != nil {
			return err
		}
	}
	const archive = "wordpress.tar.gz"
	sum := fmt.Sprintf("%s  %s\n", a.SHA256, archive)
	if err := h.WriteFile(path.Join(scriptDir, archive+".sha256"), []byte(sum), 0o644); err != nil {
		return err
	}
	return h.Push(a.Path, path.Join(scriptDir, archive), 0o644)
}

// shellSite does the same with the script, which the same visitor waits for,
// and removes it.
func (b *bench) shellSite(ctx context.Context, typ siteType, h *lab.Host, n int) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, siteLimit)
	defer cancel()
	script := path.Join(scriptDir, typ.name+".sh")
	name, domain, title := fmt.Sprintf("bare%d", n), fmt.Sprintf("bare%d.bench.example", n), fmt.Sprintf("Bare %d", n)
	begin := time.Now()
	done := make(chan error, 1)
	go func() {
		out, err := h.Output(ctx, "/bin/bash", script, "create", name, domain, title)
		if err == nil && out != "" {
			b.detail("shell: %s", out)
		}
		if err != nil {
			cancel() // the page will not come
		}
		done <- err
	}()
	_, err := rig.WaitPage(ctx, h, domain, http.StatusOK, title)
	took := time.Since(begin)
	if err := errors.Join(<-done, err); err != nil {
		return 0, err
	}
	_, err = h.Output(ctx, "/bin/bash", script, "remove", name)
	return took, err
}
