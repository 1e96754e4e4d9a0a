package certificate

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/mholt/acmez/v3"
	"github.com/mholt/acmez/v3/acme"

	"chom.dev/agent/atomicfile"
	"chom.dev/agent/task"
	linkv1 "chom.dev/proto/gen/chom/link/v1"
)

// ca is an ACME CA as this host knows it.
type ca struct {
	issuer  *linkv1.Issuer
	contact string
	client  *acme.Client
	file    string
	files   files

	mu       sync.Mutex
	account  *acme.Account // nil until it was read or made
	failed   string        // the name it failed first since it last did well, by itself
	failures int           // of other names since, but one for an outage
	rests    time.Time     // no order before, after such a failure
	why      string        // the last of them
}

var issuerName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)

func (m *Manager) newCA(issuer *linkv1.Issuer, contact string) (*ca, error) {
	if !issuerName.MatchString(issuer.GetName()) {
		return nil, fmt.Errorf("a CA's name must be lower-case letters, digits and hyphens, not %q", task.Line(issuer.GetName(), 64))
	}
	u, err := url.Parse(issuer.GetDirectoryUrl())
	if err != nil || u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("directory_url of %s must be an https URL", issuer.GetName())
	}
	var roots *x509.CertPool // nil is the system's
	if len(issuer.GetRoots()) > 0 {
		roots = x509.NewCertPool()
		if !roots.AppendCertsFromPEM(issuer.GetRoots()) {
			return nil, fmt.Errorf("roots of %s hold no certificate", issuer.GetName())
		}
	}
	return &ca{
		issuer: issuer, contact: contact, files: m.files,
		file: filepath.Join(m.cfg.Dir, "account", issuer.GetName()+".json"),
		client: &acme.Client{
			Directory: issuer.GetDirectoryUrl(),
			UserAgent: "chom-agent",
			HTTPClient: &http.Client{Timeout: 30 * time.Second, Transport: &carrier{&http.Transport{
				// No proxy: what the environment says is nobody's decision here.
				DialContext:           (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
				TLSHandshakeTimeout:   10 * time.Second,
				ResponseHeaderTimeout: 20 * time.Second,
				IdleConnTimeout:       time.Minute,
				MaxIdleConnsPerHost:   atOnce,
				ForceAttemptHTTP2:     true,
				TLSClientConfig:       &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12, Time: m.time},
			}}},
			PollTimeout: 2 * time.Minute,
		},
	}, nil
}

// carrier bounds what a CA may answer, and catches what acmez drops: when to
// come back.
type carrier struct{ next http.RoundTripper }

const maxAnswer = 1 << 20 // a chain takes 6 KB, a directory less

type hintKey struct{}

func (c *carrier) RoundTrip(req *http.Request) (*http.Response, error) {
	res, err := c.next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	res.Body = struct {
		io.Reader
		io.Closer
	}{io.LimitReader(res.Body, maxAnswer), res.Body} // cut JSON does not parse
	if hint, ok := req.Context().Value(hintKey{}).(*retryHint); ok && res.StatusCode >= http.StatusBadRequest {
		hint.after = retryAfter(res.Header.Get("Retry-After"), time.Now())
	}
	return res, nil
}

// retryAfter reads the header (RFC 9110, section 10.2.3); zero when it says
// nothing.
func retryAfter(value string, now time.Time) time.Time {
	if seconds, err := strconv.ParseUint(value, 10, 31); err == nil {
		return now.Add(time.Duration(seconds) * time.Second)
	}
	at, err := http.ParseTime(value)
	if err != nil {
		return time.Time{}
	}
	return at
}

// account is the file of an account.
type account struct {
	Directory string `json:"directory"`
	Location  string `json:"location,omitempty"` // empty until the CA has taken it
	Contact   string `json:"contact,omitempty"`
	EABKeyID  string `json:"eab_key_id,omitempty"`
	Key       string `json:"key"` // PEM
}

// enter gives the account with the CA, and makes it when there is none. The key
// is on disk before the CA sees it: after a crash it finds the account again.
func (c *ca) enter(ctx context.Context) (acme.Account, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.account != nil {
		return *c.account, nil
	}
	kept, k, err := c.kept()
	if err != nil {
		return acme.Account{}, hostFailure(err)
	}
	a := acme.Account{Status: acme.StatusValid, Location: kept.Location, PrivateKey: k, TermsOfServiceAgreed: true}
	if c.contact != "" {
		a.Contact = []string{"mailto:" + c.contact}
	}
	switch {
	case kept.Location == "":
		if id := c.issuer.GetEabKeyId(); id != "" {
			eab := acme.EAB{KeyID: id, MACKey: base64.RawURLEncoding.EncodeToString(c.issuer.GetEabKey())}
			if err := a.SetExternalAccountBinding(ctx, c.client, eab); err != nil {
				return acme.Account{}, err
			}
		}
		a.Status = ""
		if a, err = c.client.NewAccount(ctx, a); err != nil {
			return acme.Account{}, err
		}
	case kept.Contact != c.contact:
		if a, err = c.client.UpdateAccount(ctx, a); err != nil {
			return acme.Account{}, err
		}
		a.Location = kept.Location // an update's answer need not repeat it
	}
	if a.Status != acme.StatusValid {
		return acme.Account{}, fmt.Errorf("the account with it is %q", task.Line(a.Status, 32))
	}
	a.PrivateKey = k
	kept.Location, kept.Contact = a.Location, c.contact
	if err := c.keep(kept); err != nil {
		return acme.Account{}, hostFailure(err)
	}
	c.account = &a
	return a, nil
}

// kept reads the account's file, or begins one.
func (c *ca) kept() (account, *ecdsa.PrivateKey, error) {
	var a account
	text, err := os.ReadFile(c.file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return account{}, nil, err
	}
	if err == nil && json.Unmarshal(text, &a) == nil && a.Directory == c.issuer.GetDirectoryUrl() && a.EABKeyID == c.issuer.GetEabKeyId() {
		if block, _ := pem.Decode([]byte(a.Key)); block != nil {
			if k, err := parseKey(block.Bytes); err == nil {
				if k, ok := k.(*ecdsa.PrivateKey); ok {
					return a, k, nil
				}
			}
		}
	}
	// None, of another CA or binding, or damaged: accounts are free.
	k, err := newKey()
	if err != nil {
		return account{}, nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		return account{}, nil, err
	}
	a = account{
		Directory: c.issuer.GetDirectoryUrl(), EABKeyID: c.issuer.GetEabKeyId(),
		Key: string(pem.EncodeToMemory(&pem.Block{Type: blockKey, Bytes: der})),
	}
	return a, k, c.keep(a)
}

func (c *ca) keep(a account) error {
	text, err := json.MarshalIndent(a, "", "\t")
	if err != nil {
		return err
	}
	return c.files.write(c.file, append(text, '\n'))
}

// lost forgets an account that the CA no longer knows.
func (c *ca) lost() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.account = nil
	_, err := atomicfile.Remove(c.file)
	return err
}

// resting tells until when a CA that failed is left alone, and why.
func (c *ca) resting(now time.Time) (until time.Time, why string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.rests.After(now) || c.rests.After(now.Add(longestWait)) {
		return time.Time{}, ""
	}
	return c.rests, c.why
}

// ended notes how the CA did with a name: one that fails several names in a row
// by itself is left alone for a while, by all names together, up to an hour. What
// one name alone meets again and again is no reason to keep the others waiting.
// Orders that were under way when that began say nothing new.
func (c *ca) ended(now time.Time, name string, f *failure) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.rests.After(now) && !c.rests.After(now.Add(longestWait)) {
		return
	}
	if f == nil || f.kind != ofIssuer {
		c.failed, c.failures, c.rests, c.why = "", 0, time.Time{}, ""
		return
	}
	if c.failed == "" || c.failed == name {
		c.failed = name
		return
	}
	c.failures++
	c.rests, c.why = now.Add(waitFor(min(c.failures, 4), ofBroker, false, 0, spread(c.issuer.GetName()+now.String()))), f.Error()
}

// order obtains a certificate for one name: from the first CA, or from the next
// one where that is not the name's fault. old is what it replaces, nil for none.
func (m *Manager) order(ctx context.Context, w want, old *bundle) (*bundle, error) {
	var failures []*failure
	leftAlone := m.record(w.key).Limited
	for _, c := range m.authorities() {
		now, name := m.time(), c.issuer.GetName()
		if until := leftAlone[name]; until.After(now) && until.Before(now.Add(longestWait)) {
			failures = append(failures, &failure{kind: limited, unasked: true, until: until, text: fmt.Sprintf("%s has been asked for too much lately; it is asked again after %s", name, stamp(until))})
			continue
		}
		if until, why := c.resting(now); !until.IsZero() {
			failures = append(failures, &failure{kind: ofIssuer, unasked: true, until: until, text: why})
			continue
		}
		b, f := m.orderFrom(ctx, c, w, old)
		if f == nil {
			return b, nil
		}
		if ctx.Err() != nil {
			return nil, f
		}
		failures = append(failures, f)
		if f.kind != ofIssuer && f.kind != limited {
			break
		}
	}
	if len(failures) == 0 {
		return nil, &failure{kind: ofIssuer, text: noAuthority}
	}
	// The last one's words count where it is the name's fault.
	if last := failures[len(failures)-1]; last.kind != ofIssuer && last.kind != limited {
		last.limited = both(failures).limited
		return nil, last
	}
	return nil, both(failures)
}

const noAuthority = "the platform has no certificate authority configured"

// unknown is how CAs say that they do not know the certificate that is to be
// replaced: Let's Encrypt by the first two, Pebble by the last.
var unknown = []string{acme.ProblemTypeMalformed, acme.ProblemTypeUnauthorized, acme.ProblemTypeServerInternal}

// orderFrom orders from one CA.
func (m *Manager) orderFrom(ctx context.Context, c *ca, w want, old *bundle) (*bundle, *failure) {
	var hint retryHint
	ctx = context.WithValue(ctx, hintKey{}, &hint)
	b, err := c.obtain(ctx, w, old, solver{m, w})
	if p, _ := problemOf(err); p != nil && p.Type == acme.ProblemTypeAccountDoesNotExist {
		// It lost its database, or swept the account: begin anew, once.
		if err := c.lost(); err != nil {
			return nil, explain(hostFailure(err))
		}
		b, err = c.obtain(ctx, w, old, solver{m, w})
	}
	if p, validation := problemOf(err); p != nil && old != nil && !validation && slices.Contains(unknown, p.Type) {
		// That is no reason to have no next one.
		b, err = c.obtain(ctx, w, nil, solver{m, w})
	}
	now := m.time()
	if err == nil {
		if wrong := b.only(w.name, now); wrong != nil {
			err = &failure{kind: ofIssuer, text: c.issuer.GetName() + " answered with a certificate that cannot be used", err: wrong}
		}
	}
	if err == nil {
		c.ended(now, w.name.String(), nil)
		m.past(b.leaf().NotBefore)
		return b, nil
	}
	f := explainOrder(c.issuer.GetName(), w, err, hint, now)
	if ctx.Err() == nil {
		c.ended(now, w.name.String(), f)
	}
	return nil, f
}

// obtain is one order from its account to its certificate.
func (c *ca) obtain(ctx context.Context, w want, old *bundle, s acmez.Solver) (*bundle, error) {
	a, err := c.enter(ctx)
	if err != nil {
		return nil, err
	}
	k, err := newKey()
	if err != nil {
		return nil, hostFailure(err)
	}
	der, err := request(w.name, k)
	if err != nil {
		return nil, hostFailure(err)
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, hostFailure(err)
	}
	params, err := acmez.OrderParametersFromCSR(a, csr)
	if err != nil {
		return nil, hostFailure(err)
	}
	if dir, err := c.client.GetDirectory(ctx); err != nil {
		return nil, err
	} else if dir.RenewalInfo != "" && old != nil && old.issuer == c.issuer.GetName() && old.account == a.Location {
		params.Replaces = old.leaf()
	}
	client := acmez.Client{Client: c.client, ChallengeSolvers: map[string]acmez.Solver{w.challengeName(): s}}
	chains, err := client.ObtainCertificate(ctx, params)
	if err != nil {
		return nil, err
	}
	if len(chains) == 0 {
		return nil, errors.New("it answered without a certificate")
	}
	own := &bundle{key: k}
	text, err := own.text()
	if err != nil {
		return nil, hostFailure(err)
	}
	b, err := parse(chains[0].ChainPEM, text)
	if err != nil {
		return nil, fmt.Errorf("its certificate cannot be used: %w", err)
	}
	b.origin = origin{source: acmeCA, issuer: c.issuer.GetName(), account: a.Location}
	return b, nil
}

const (
	askAtLeast = time.Hour      // whatever a CA says of how soon to ask again when it wants a certificate renewed
	askAtMost  = 24 * time.Hour // or how late (RFC 9773, section 4.3.2)
	askAgain   = 6 * time.Hour  // where it says nothing
)

// ask asks the CA of a certificate when it wants it renewed (RFC 9773). Without
// an answer what it said before holds.
func (m *Manager) ask(ctx context.Context, j *job) {
	old, err := m.read(j.key)
	if err != nil {
		return // replaced or gone meanwhile
	}
	serial := old.leaf().SerialNumber.Text(16)
	now := m.time()
	said := renewal{Serial: serial, Ask: now.Add(askAgain)}
	if before := m.record(j.key).Renewal; before != nil && before.Serial == serial {
		said.Start, said.End, said.At = before.Start, before.End, before.At
	}
	info, err := m.suggest(ctx, old)
	switch {
	case ctx.Err() != nil:
		return
	case errors.Is(err, acme.ErrUnsupported):
	case err != nil:
		m.cfg.Log.Info("a CA did not say when to renew", "name", j.name, "issuer", old.issuer, "err", task.Line(err.Error(), 256))
	default:
		start, end := info.SuggestedWindow.Start, info.SuggestedWindow.End
		if !start.Equal(said.Start) || !end.Equal(said.End) {
			said.Start, said.End, said.At = start, end, choose(start, end, latest(old.leaf().NotBefore, old.leaf().NotAfter), serial)
		}
		if info.RetryAfter != nil {
			said.Ask = now.Add(min(max(time.Until(*info.RetryAfter), askAtLeast), askAtMost))
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if j.revoked {
		return
	}
	r := m.record(j.key)
	r.Renewal = &said
	if err := m.records.keep(j.key, r); err != nil {
		m.cfg.Log.Warn("when a CA wants a certificate renewed could not be noted", "name", j.name, "err", err)
	}
}

// renewalInfo asks the CA that issued a certificate, where it still is one of
// the platform's.
func (m *Manager) renewalInfo(ctx context.Context, old *bundle) (acme.RenewalInfo, error) {
	for _, c := range m.authorities() {
		if c.issuer.GetName() == old.issuer {
			return c.client.GetRenewalInfo(ctx, old.leaf())
		}
	}
	return acme.RenewalInfo{}, acme.ErrUnsupported
}
