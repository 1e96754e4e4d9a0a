package e2e

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	domainv1 "chom.dev/proto/gen/chom/domain/v1"
	sitev1 "chom.dev/proto/gen/chom/site/v1"

	"chom.dev/packaging/rig"
)

// TestLife walks a site of each type through everything that can happen to it,
// on both releases.
func TestLife(t *testing.T) {
	onBoth(t, func(t *testing.T, h *host) {
		for _, typ := range []string{"static", "wordpress"} {
			t.Run(typ, func(t *testing.T) { life(t, h, typ) })
		}
	})
}

func life(t *testing.T, h *host, typ string) {
	ctx := timeout(t, 5*time.Minute)
	r := world.rig
	s := create(t, h, typ)
	if s.GetState() != sitev1.State_STATE_ACTIVE {
		t.Fatalf("created site is %s: %s", s.GetState(), s.GetProblem())
	}
	if o := s.GetObserved(); o.GetHttpStatus() != http.StatusOK || !strings.Contains(o.GetPageTitle(), s.GetSettings()["title"]) {
		t.Errorf("the agent measured %d %q", o.GetHttpStatus(), o.GetPageTitle())
	}
	shows(t, h, s, http.StatusOK, s.GetSettings()["title"])

	title := "Changed " + s.GetName()
	updated, err := r.Sites.UpdateSite(ctx, &sitev1.UpdateSiteRequest{
		OrganizationId: s.GetOrganizationId(), SiteId: s.GetId(),
		UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"domains", "settings"}},
		Domains:    []string{"new." + s.GetDomains()[0], s.GetDomains()[0]},
		Settings:   map[string]string{"title": title},
	})
	if err != nil {
		t.Fatal(err)
	}
	done(t, ctx, updated.GetTask())
	shows(t, h, updated.GetSite(), http.StatusOK, title)

	suspended, err := r.Sites.SuspendSite(ctx, &sitev1.SuspendSiteRequest{OrganizationId: s.GetOrganizationId(), SiteId: s.GetId()})
	if err != nil {
		t.Fatal(err)
	}
	done(t, ctx, suspended.GetTask())
	shows(t, h, s, http.StatusServiceUnavailable, "")
	if got := get(t, s).GetState(); got != sitev1.State_STATE_SUSPENDED {
		t.Errorf("suspended site is %s", got)
	}
	if left := sh(t, h, "pgrep -u s-"+s.GetHandle()+" || true"); left != "" {
		t.Errorf("processes of a suspended site: %s", left)
	}

	resumed, err := r.Sites.ResumeSite(ctx, &sitev1.ResumeSiteRequest{OrganizationId: s.GetOrganizationId(), SiteId: s.GetId()})
	if err != nil {
		t.Fatal(err)
	}
	done(t, ctx, resumed.GetTask())
	shows(t, h, s, http.StatusOK, "")

	deleted, err := r.Sites.DeleteSite(ctx, &sitev1.DeleteSiteRequest{OrganizationId: s.GetOrganizationId(), SiteId: s.GetId()})
	if err != nil {
		t.Fatal(err)
	}
	done(t, ctx, deleted.GetTask())
	if _, err := rig.Visit(ctx, h.Host, s.GetDomains()[0], "/"); err == nil {
		t.Error("a site in the trash still answers")
	}
	restored, err := r.Sites.RestoreSite(ctx, &sitev1.RestoreSiteRequest{OrganizationId: s.GetOrganizationId(), SiteId: s.GetId()})
	if err != nil {
		t.Fatal(err)
	}
	done(t, ctx, restored.GetTask())
	shows(t, h, s, http.StatusOK, title) // nothing was lost

	purge(t, h, s)
}

// purge deletes a site and waits until the trash period is over and nothing is
// left, neither on the host nor in the API.
func purge(t *testing.T, h *host, s *sitev1.Site) {
	t.Helper()
	ctx := timeout(t, 2*time.Minute)
	deleted, err := world.rig.Sites.DeleteSite(ctx, &sitev1.DeleteSiteRequest{OrganizationId: s.GetOrganizationId(), SiteId: s.GetId()})
	if err != nil {
		t.Fatal(err)
	}
	done(t, ctx, deleted.GetTask())
	for {
		_, err := world.rig.Sites.GetSite(ctx, &sitev1.GetSiteRequest{OrganizationId: s.GetOrganizationId(), SiteId: s.GetId()})
		if connect.CodeOf(err) == connect.CodeNotFound {
			break
		}
		select {
		case <-ctx.Done():
			t.Fatalf("the site is not purged: %v", get(t, s))
		case <-time.After(200 * time.Millisecond):
		}
	}
	if left := traces(t, h, s.GetHandle()); left != "" {
		t.Errorf("left of a purged site:\n%s", left)
	}
}

func TestUnknownNameIsRefused(t *testing.T) {
	onBoth(t, func(t *testing.T, h *host) {
		s := create(t, h, "static")
		defer purge(t, h, s)
		for _, name := range []string{"unknown.example", h.Addr().String(), "x." + s.GetDomains()[0]} {
			if p, err := rig.Visit(t.Context(), h.Host, name, "/"); err == nil {
				t.Errorf("%s answers %d %q", name, p.Status, p.Title)
			}
		}
	})
}

// TestNames is about a name that the site's organization does not hold yet: the host refuses it, however the DNS leads there,
// shows the site under its preview name, and serves the name as soon as it is held.
func TestNames(t *testing.T) {
	h := world.hosts["bookworm"]
	ctx := timeout(t, 2*time.Minute)
	request := newSite(h, "static")
	name := request.GetName() + ".elsewhere.example"
	request.Domains = []string{name}
	made, err := world.rig.Sites.CreateSite(ctx, request)
	if err != nil {
		t.Fatal(err)
	}
	done(t, ctx, made.GetTask())
	s := get(t, made.GetSite())
	defer purge(t, h, s)
	if !slices.Equal(s.GetPendingDomains(), []string{name}) || !strings.HasPrefix(s.GetPreviewDomain(), s.GetHandle()+".") {
		t.Errorf("pending %v, preview %q", s.GetPendingDomains(), s.GetPreviewDomain())
	}
	visit := func(name string) bool {
		p, err := rig.Visit(ctx, h.Host, name, "/")
		return err == nil && p.Status == http.StatusOK
	}
	if visit(name) || !visit(s.GetPreviewDomain()) {
		t.Errorf("the name is served, or the preview is not")
	}
	if _, err := world.rig.Claims.AttestClaim(ctx, &domainv1.AttestClaimRequest{OrganizationId: world.org, Name: name}); err != nil {
		t.Fatal(err)
	}
	for !visit(name) {
		if ctx.Err() != nil {
			t.Fatal("the name is not served although it is held")
		}
		time.Sleep(100 * time.Millisecond)
	}
	if s = get(t, s); len(s.GetPendingDomains()) != 0 || s.GetUrl() != "http://"+name+"/" || !visit(s.GetPreviewDomain()) {
		t.Errorf("then it is %+v", s)
	}
}

func TestMagicLoginWorksOnce(t *testing.T) {
	onBoth(t, func(t *testing.T, h *host) {
		s := create(t, h, "wordpress")
		defer purge(t, h, s)
		ctx := timeout(t, time.Minute)
		res, err := world.rig.Sites.CreateSiteLogin(ctx, &sitev1.CreateSiteLoginRequest{OrganizationId: s.GetOrganizationId(), SiteId: s.GetId()})
		if err != nil {
			t.Fatal(err)
		}
		path := strings.TrimPrefix(res.GetUrl(), "http://"+s.GetDomains()[0])
		first, err := rig.Visit(ctx, h.Host, s.GetDomains()[0], path)
		if err != nil {
			t.Fatal(err)
		}
		if !loggedIn(first) {
			t.Fatalf("the link answers %d, cookies %q", first.Status, first.Header.Values("Set-Cookie"))
		}
		again, err := rig.Visit(ctx, h.Host, s.GetDomains()[0], path)
		if err != nil {
			t.Fatal(err)
		}
		if loggedIn(again) {
			t.Error("the link worked twice")
		}
		if life := time.Until(res.GetExpireTime().AsTime()); life > time.Minute {
			t.Errorf("the link lives for %s", life)
		}
	})
}

func loggedIn(p rig.Page) bool {
	return strings.Contains(strings.Join(p.Header.Values("Set-Cookie"), "\n"), "wordpress_logged_in_")
}

// TestWebInstallerIsNeverReachable asks for the installer all the time while a
// site is made.
func TestWebInstallerIsNeverReachable(t *testing.T) {
	h := world.hosts["bookworm"]
	req := newSite(h, "wordpress")
	ctx := timeout(t, time.Minute)
	stop := make(chan struct{})
	seen := make(chan string, 1)
	go func() {
		defer close(seen)
		for {
			select {
			case <-stop:
				return
			default:
			}
			for _, path := range []string{"/", "/wp-admin/install.php", "/wp-admin/setup-config.php"} {
				p, err := rig.Visit(ctx, h.Host, req.Domains[0], path)
				if err == nil && (strings.Contains(p.Body, "wp-install") || strings.Contains(p.Body, "setup-config") || strings.Contains(p.Header.Get("Location"), "install.php")) {
					seen <- fmt.Sprintf("%s: %d", path, p.Status)
					return
				}
			}
		}
	}()
	res, err := world.rig.Sites.CreateSite(ctx, req)
	if err != nil {
		t.Fatal(err)
	}
	done(t, ctx, res.GetTask())
	close(stop)
	if where, reached := <-seen; reached {
		t.Errorf("the web installer was reachable: %s", where)
	}
	purge(t, h, get(t, res.GetSite()))
}
