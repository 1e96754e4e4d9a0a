package site_test

import (
	"bufio"
	"context"
	"crypto/sha256"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	orderv1 "chom.dev/proto/gen/chom/order/v1"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
	"chom.dev/controlplane/domain"
	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/organization"
	"chom.dev/controlplane/site"
	"chom.dev/proto/contract"
)

const (
	verified = "verified"
	released = "released"
)

var (
	claimable = []string{"example.com", "www.example.com", "a.www.example.com", "example.org"}
	steps     = []string{"attest", "attest", "attest", "release", "forget", "create", "create", "update", "update", "suspend", "resume", "delete", "restore", "dns", "provider", "upload", "look", "follow"}
	siteNames = []string{"example.com", "www.example.com", "*.example.com", "a.www.example.com", "*.www.example.com", "example.org", "www.example.org"}
)

// names is what names mean without a database: who has shown that one is theirs, which site was given it, where it leads.
type names struct {
	*world
	owners []contract.OrganizationID
	claims *domain.Domains
	last   int64 // sequence of the newest order that was checked

	preview bool // sites have preview names

	mu      sync.Mutex
	holders map[string]map[int]string // claims by name and owner
	given   map[string]contract.SiteID
	wanted  map[contract.SiteID][]string
	handles map[contract.SiteID]contract.Handle
	of      map[contract.SiteID]int // owners of sites
	right   map[string]bool         // leads to the server
	managed map[int]bool            // owners with a DNS provider
	uploads map[int]bool            // owners with a certificate for *.example.com
}

// holds says whether an owner holds a name or the base of a wildcard.
func (m *names) holds(who int, name string) bool {
	name = strings.TrimPrefix(name, "*.")
	for held, by := range m.holders {
		if by[who] == verified && (held == name || strings.HasSuffix(name, "."+held)) {
			return true
		}
	}
	return false
}

// taken says whether another owner has a name, one above or one below.
func (m *names) taken(who int, name string) bool {
	for held, by := range m.holders {
		overlaps := held == name || strings.HasSuffix(held, "."+name) || strings.HasSuffix(name, "."+held)
		for other, state := range by {
			if overlaps && other != who && state != "" {
				return true
			}
		}
	}
	return false
}

// inUse says whether a site of an owner has a name or one below it.
func (m *names) inUse(who int, name string) bool {
	for has, id := range m.given {
		if m.of[id] == who && (has == name || strings.HasSuffix(has, "."+name)) {
			return true
		}
	}
	return false
}

// givable says whether an owner's site may get a name: nobody has it, or somebody who does not hold it while the owner does.
func (m *names) givable(who int, id contract.SiteID, name string) bool {
	has, is := m.given[name]
	return !is || has == id || m.of[has] != who && m.holds(who, name) && !m.holds(m.of[has], name)
}

// takeBack gives sites what they took of names that they want and whose sites lost them: with which step they do is not
// what this is about, only that they may.
func (m *names) takeBack(t *testing.T, r *rapid.T) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for id, names := range m.wanted {
		for _, name := range names {
			if m.given[name] == id || m.count(t, `SELECT COUNT(*) FROM domains WHERE name = $1 AND site_id = $2`, name, id) == 0 {
				continue
			}
			if who := m.of[id]; !m.holds(who, name) || !m.givable(who, id, name) {
				r.Fatalf("%s took %s", id, name)
			}
			m.given[name] = id
		}
	}
}

// Addresses and CAA make it a DNS in memory: TestNames asks the real one.
func (m *names) Addresses(_ context.Context, name contract.Domain) ([]netip.Addr, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.right[name.String()] {
		return []netip.Addr{netip.MustParseAddr(serverAddress)}, nil
	}
	return []netip.Addr{netip.MustParseAddr(elsewhere)}, nil
}

func (m *names) CAA(context.Context, contract.Domain) (string, []domain.CAA, error) {
	return "", nil, nil
}

// DialContext makes it a server in memory, which knows each name's site as a host does.
func (m *names) DialContext(_ context.Context, _, address string) (net.Conn, error) {
	if !strings.HasPrefix(address, serverAddress+":") {
		return nil, syscall.ECONNREFUSED
	}
	ours, theirs := net.Pipe()
	go func() {
		defer theirs.Close()
		r, err := http.ReadRequest(bufio.NewReader(theirs))
		if err != nil {
			return
		}
		host, _, _ := strings.Cut(r.Host, ":")
		if below, is := strings.CutPrefix(host, "chom-probe."); is {
			host = "*." + below
		}
		m.mu.Lock()
		handle := m.handles[m.given[host]].String()
		m.mu.Unlock()
		fmt.Fprintf(theirs, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(handle), handle)
	}()
	return ours, nil
}

func newModel(t *testing.T, d *db.DB) *names {
	m := &names{world: newWorld(t, d)}
	for _, name := range []string{"one", "two", "three"} {
		made, err := organization.New(d, organization.Config{}).Create(t.Context(), name, name+"@example.com")
		if err != nil {
			t.Fatal(err)
		}
		m.owners = append(m.owners, made.ID)
	}
	m.claims = domain.New(d, slog.New(slog.DiscardHandler), domain.Config{InUse: site.InUse})
	return m
}

// begin takes everything away but the organizations.
func (m *names) begin(t *testing.T, preview bool) {
	if err := db.InTx(t.Context(), m.db, func(tx *db.Tx) error {
		for _, table := range []string{"tasks", "certificate_starts", "domains", "sites", "claim_names", "claims"} {
			if _, err := tx.Exec(t.Context(), `DELETE FROM `+table); err != nil {
				return err
			}
		}
		// Thousands of histories take longer than a server may be silent.
		_, err := tx.Exec(t.Context(), `UPDATE server_links SET last_seen_at = $1`, db.Micros(time.Now()))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	m.holders, m.given, m.handles, m.of = map[string]map[int]string{}, map[string]contract.SiteID{}, map[contract.SiteID]contract.Handle{}, map[contract.SiteID]int{}
	m.wanted = map[contract.SiteID][]string{}
	m.right, m.managed, m.uploads = map[string]bool{}, map[int]bool{}, map[int]bool{}
	for _, name := range siteNames {
		m.right[name] = name != "www.example.com"
	}
	below := ""
	if m.preview = preview; preview {
		below = "preview.example.net"
	}
	for _, name := range claimable {
		m.holders[name] = map[int]string{}
	}
	upload, err := contract.ParsePattern("*.example.com")
	if err != nil {
		t.Fatal(err)
	}
	m.sites = site.New(m.db, m.tasks, slog.New(slog.DiscardHandler), site.Config{
		PreviewDomain: below, Resolver: m, Dialer: m,
		Provider: func(_ context.Context, _ db.Querier, who contract.OrganizationID, _ contract.Domain) (bool, error) {
			m.mu.Lock()
			defer m.mu.Unlock()
			return m.managed[slices.Index(m.owners, who)], nil
		},
		Uploads: func(_ context.Context, _ *db.Tx, who contract.OrganizationID, _ contract.SiteID) ([]site.Upload, error) {
			m.mu.Lock()
			defer m.mu.Unlock()
			if !m.uploads[slices.Index(m.owners, who)] {
				return nil, nil
			}
			return []site.Upload{{ID: "0192a000-0000-7000-8000-000000000001", SHA256: sha256.Sum256(nil), Names: []contract.Domain{upload}}}, nil
		},
	})
}

// check holds every order that was given since the last check against the model.
func (m *names) check(t *testing.T, r *rapid.T) {
	rows, err := m.db.Reader().Query(t.Context(), `SELECT sequence, organization_id, parameters FROM tasks WHERE sequence > $1 ORDER BY sequence`, m.last)
	if err != nil {
		r.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var who contract.OrganizationID
		var parameters []byte
		if err := rows.Scan(&m.last, &who, &parameters); err != nil {
			r.Fatal(err)
		}
		var order orderv1.ConvergeSite
		if err := proto.Unmarshal(parameters, &order); err != nil {
			r.Fatal(err)
		}
		desired := order.GetDesired()
		own := func(name string) bool { // the preview name, or the one of a site without any
			return name == desired.GetHandle()+".preview.example.net" || name == desired.GetHandle()+".invalid"
		}
		if len(desired.GetDomains()) == 0 || strings.HasPrefix(desired.GetDomains()[0], "*.") {
			r.Fatalf("ordered the names %v", desired.GetDomains())
		}
		ordered := slices.DeleteFunc(slices.Clone(desired.GetDomains()), own)
		for _, a := range desired.GetHttps().GetAcme() {
			if own(a.GetName()) || !slices.Contains(ordered, a.GetName()) {
				r.Fatalf("a certificate for %s, which is not served", a.GetName())
			}
			ordered = append(ordered, a.GetName())
		}
		for _, u := range desired.GetHttps().GetUploaded() {
			ordered = append(ordered, u.GetDomains()...)
		}
		for _, name := range slices.Concat(ordered, desired.GetRedirectDomains()) {
			if !m.holds(slices.Index(m.owners, who), name) {
				r.Fatalf("ordered %s, which is not held", name)
			}
			if id := m.given[name]; id.String() != desired.GetSiteId() {
				r.Fatalf("ordered %s to the host of %s, which %s has", name, desired.GetSiteId(), id)
			}
		}
		for _, name := range desired.GetHttps().GetPlatformDomains() {
			if !own(name) {
				r.Fatalf("the platform's certificate for %s", name)
			}
		}
	}
	if err := rows.Err(); err != nil {
		r.Fatal(err)
	}
	// What was ordered once stays right: nobody loses a name that a site of theirs answers to.
	for _, id := range m.given {
		if m.of[id] < 0 {
			continue
		}
		found, err := m.sites.Get(t.Context(), m.owners[m.of[id]], id)
		if err != nil {
			r.Fatal(err)
		}
		for _, name := range found.Served {
			if text := name.String(); !strings.HasPrefix(text, found.Handle.String()+".") && !m.holds(m.of[id], text) {
				r.Fatalf("%s answers to %s, which is not held", found.Name, text)
			}
		}
	}
}

// TestNamesModel is cases C10, H01 and H09: whatever three organizations do with the same names, no host is ever told to answer to
// one, or to order a certificate for one, that the site's organization does not hold at that moment; and what is held, served and
// leads here gets its certificate.
func TestNamesModel(t *testing.T) {
	parts, checks := 1, "100"
	if os.Getenv("CHOM_PROVE") == "1" {
		parts, checks = 100, "1000"
	}
	before := flag.Lookup("rapid.checks").Value.String()
	if !slices.ContainsFunc(os.Args, func(arg string) bool { return strings.Contains(arg, "rapid.checks") }) {
		if err := flag.Set("rapid.checks", checks); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { _ = flag.Set("rapid.checks", before) })
	certificates := 0
	for part := range parts {
		t.Run(fmt.Sprint(part), func(t *testing.T) {
			m := newModel(t, dbtest.SQLite(t))
			rapid.Check(t, func(r *rapid.T) {
				m.begin(t, rapid.Bool().Draw(r, "has a preview name"))
				for i := range rapid.IntRange(4, 16).Draw(r, "steps") {
					step := rapid.SampledFrom(steps).Draw(r, "step")
					if i < 2 {
						step = "attest" // without names there is little to tell
					}
					m.step(t, r, step)
					m.check(t, r)
				}
				certificates += m.lookAtAll(t, r)
				m.check(t, r)
			})
		})
	}
	if certificates == 0 {
		t.Error("no history came to a certificate")
	}
	t.Logf("%d certificates", certificates)
}

// step does something that somebody can do.
func (m *names) step(t *testing.T, r *rapid.T, step string) {
	ctx := t.Context()
	who := rapid.IntRange(0, 2).Draw(r, "who")
	conflict := func(err error, expected bool) bool {
		if is := fault.KindOf(err) == fault.KindConflict; is != expected || err != nil && !is {
			r.Fatalf("got %v, expected a conflict: %v", err, expected)
		}
		return err != nil
	}
	domains := func() []string {
		drawn := rapid.SliceOfNDistinct(rapid.SampledFrom(siteNames), 1, 3, rapid.ID).Draw(r, "names")
		slices.SortStableFunc(drawn, func(a, b string) int { return strings.Count(a, "*") - strings.Count(b, "*") })
		if strings.HasPrefix(drawn[0], "*.") {
			drawn[0] = "example.com"
		}
		return drawn
	}
	// one is any of the owner's sites; false where there is none.
	one := func() (contract.SiteID, bool) {
		var ids []contract.SiteID
		for id, owner := range m.of {
			if owner == who {
				ids = append(ids, id)
			}
		}
		slices.SortFunc(ids, func(a, b contract.SiteID) int { return strings.Compare(a.String(), b.String()) })
		if len(ids) == 0 {
			return contract.SiteID{}, false
		}
		return rapid.SampledFrom(ids).Draw(r, "site"), true
	}
	nameless := func(names []string) bool {
		return !m.preview && !slices.ContainsFunc(names, func(name string) bool { return !strings.HasPrefix(name, "*.") && m.holds(who, name) })
	}
	// takenFor leaves out what the site has wanted before: it may have lost that, and keeps its wish.
	takenFor := func(id contract.SiteID, names []string) bool {
		return slices.ContainsFunc(names, func(name string) bool {
			return !slices.Contains(m.wanted[id], name) && !m.givable(who, id, name)
		})
	}
	give := func(id contract.SiteID, names []string) {
		m.mu.Lock()
		defer m.mu.Unlock()
		for name, has := range m.given {
			if has == id && !slices.Contains(names, name) {
				delete(m.given, name)
			}
		}
		for _, name := range names {
			if !slices.Contains(m.wanted[id], name) {
				m.given[name] = id
			}
		}
		m.wanted[id] = names
	}
	defer m.takeBack(t, r)
	switch step {
	case "attest":
		name := rapid.SampledFrom(claimable).Draw(r, "name")
		if _, err := m.claims.Attest(ctx, m.owners[who], name); !conflict(err, m.taken(who, name)) {
			m.holders[name][who] = verified
		}
	case "release":
		name := rapid.SampledFrom(claimable).Draw(r, "name")
		if m.holders[name][who] != verified {
			return
		}
		again, err := m.claims.Create(ctx, m.owners[who], name)
		if err != nil {
			r.Fatal(err)
		}
		if _, err := m.claims.Release(ctx, m.owners[who], again.ID); !conflict(err, m.inUse(who, name)) {
			m.holders[name][who] = released
		}
	case "forget": // three days
		exec(t, m.db, `DELETE FROM claims WHERE state = 'released'`)
		for _, by := range m.holders {
			for who, state := range by {
				if state == released {
					delete(by, who)
				}
			}
		}
	case "create":
		if len(m.of) > 3 {
			return
		}
		wanted := domains()
		made, _, err := m.sites.Create(ctx, site.Request{
			Organization: m.owners[who], Name: fmt.Sprint("s", len(m.of)), Type: "static", Domains: wanted, Redirects: redirects(wanted),
		})
		if conflict(err, takenFor(contract.SiteID{}, wanted) || nameless(wanted)) {
			return
		}
		m.mu.Lock()
		m.of[made.ID], m.handles[made.ID] = who, made.Handle
		m.mu.Unlock()
		give(made.ID, wanted)
	case "update":
		id, is := one()
		if !is {
			return
		}
		wanted := domains()
		found, err := m.sites.Get(ctx, m.owners[who], id)
		if err != nil {
			r.Fatal(err)
		}
		_, _, err = m.sites.Update(ctx, m.owners[who], id, site.Change{Domains: wanted, Redirects: redirects(wanted)})
		if !conflict(err, takenFor(id, wanted) || found.Wanted.Phase == site.Trashed || found.Wanted.Phase == site.Active && nameless(wanted)) {
			give(id, wanted)
		}
	case "suspend", "resume", "delete", "restore":
		id, is := one()
		if !is {
			return
		}
		do := map[string]func(context.Context, contract.OrganizationID, contract.SiteID) error{
			"suspend": func(ctx context.Context, o contract.OrganizationID, id contract.SiteID) error {
				_, _, err := m.sites.Suspend(ctx, o, id)
				return err
			},
			"resume": func(ctx context.Context, o contract.OrganizationID, id contract.SiteID) error {
				_, _, err := m.sites.Resume(ctx, o, id)
				return err
			},
			"delete": func(ctx context.Context, o contract.OrganizationID, id contract.SiteID) error {
				_, _, err := m.sites.Delete(ctx, o, id)
				return err
			},
			"restore": func(ctx context.Context, o contract.OrganizationID, id contract.SiteID) error {
				_, _, err := m.sites.Restore(ctx, o, id)
				return err
			},
		}[step]
		if err := do(ctx, m.owners[who], id); err != nil && fault.KindOf(err) != fault.KindConflict { // whether it may is not what this is about
			r.Fatal(err)
		}
	case "dns":
		name := rapid.SampledFrom(siteNames).Draw(r, "name")
		m.mu.Lock()
		m.right[name] = !m.right[name]
		m.mu.Unlock()
	case "provider":
		m.mu.Lock()
		m.managed[who] = !m.managed[who]
		m.mu.Unlock()
	case "upload":
		m.mu.Lock()
		m.uploads[who] = !m.uploads[who]
		m.mu.Unlock()
		for id, owner := range m.of {
			if owner != who {
				continue
			}
			if err := db.InTx(ctx, m.db, func(tx *db.Tx) error { return m.sites.Recertify(ctx, tx, m.owners[who], id) }); err != nil && fault.KindOf(err) != fault.KindConflict {
				r.Fatal(err)
			}
		}
	case "look":
		if id, is := one(); is {
			if _, err := m.sites.Check(ctx, m.owners[who], id); err != nil {
				r.Fatal(err)
			}
		}
	case "follow":
		if _, err := m.sites.Follow(ctx); err != nil {
			r.Fatal(err)
		}
	}
}

// redirects has the second of some names lead to the first.
func redirects(names []string) []string {
	if len(names) < 2 || strings.HasPrefix(names[1], "*.") {
		return []string{}
	}
	return names[1:2]
}

// lookAtAll does what Run would in time, and counts the certificates that are ordered then: one for each name that is held, leads
// to the server and is not covered by an upload.
func (m *names) lookAtAll(t *testing.T, r *rapid.T) (certificates int) {
	ctx := t.Context()
	for range 2 {
		if _, err := m.sites.Follow(ctx); err != nil {
			r.Fatal(err)
		}
		for id, owner := range m.of {
			if _, err := m.sites.Check(ctx, m.owners[owner], id); err != nil {
				r.Fatal(err)
			}
		}
	}
	m.takeBack(t, r)
	for name, id := range m.given {
		owner := m.of[id]
		found, err := m.sites.Get(ctx, m.owners[owner], id)
		if err != nil {
			r.Fatal(err)
		}
		covered := m.uploads[owner] && (name == "*.example.com" || name == "www.example.com")
		if found.Wanted.Phase == site.Trashed || !m.holds(owner, name) || !m.right[name] || covered || strings.HasPrefix(name, "*.") && !m.managed[owner] {
			continue
		}
		if ordered := m.https(t, id); !strings.Contains(", "+ordered, ", "+name+" by ") {
			r.Fatalf("%s of %s is held and leads here, but ordered are: %s", name, found.Name, ordered)
		}
		certificates++
	}
	return certificates
}
