package certificate

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/mholt/acmez/v3/acme"

	"chom.dev/agent/task"
)

// kind is whose matter a failure is: it decides who is asked next, and when.
type kind int

const (
	ofIssuer kind = iota // the CA can't be reached, or doesn't work: another one may
	ofName               // the name's DNS, or what answers there: no CA would issue
	refused              // this CA never issues for the name
	limited              // the CA has been asked too often: another one may issue
	ofBroker             // the control plane, or a DNS provider behind it
	ofHost               // this host: a full disk, for one
)

// failure is why there is no certificate, in words for the site's owner.
type failure struct {
	kind    kind
	text    string
	err     error
	until   time.Time            // no try before
	limited map[string]time.Time // CAs to be left alone with this name, until when
	unasked bool                 // no CA was asked: it is no try
}

func (f *failure) Error() string {
	text := f.text
	if f.err != nil {
		text = fmt.Sprintf("%s: %v", text, f.err)
	}
	return task.Line(text, maxProblem)
}

func (f *failure) Unwrap() error { return f.err }

const maxProblem = 1024 // of ObservedCertificate.problem

func hostFailure(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		err = errors.New("its disk is full")
	}
	return &failure{kind: ofHost, text: "this server could not store a certificate; it goes on with what it has", err: err}
}

func brokerFailure(what string, err error) error {
	return &failure{kind: ofBroker, text: what, err: err}
}

// explain finds the failure in an error. Without one the CA's answer made no
// sense.
func explain(err error) *failure {
	var f *failure
	if errors.As(err, &f) {
		return f
	}
	return &failure{kind: ofIssuer, text: "no certificate could be obtained", err: err}
}

// explainOrder says what a CA's refusal of an order means, and what to do. What
// the CA wrote is quoted, cleaned and cut: it is a stranger's text.
func explainOrder(issuer string, w want, err error, hint retryHint, now time.Time) *failure {
	var f *failure
	if errors.As(err, &f) {
		return f // ours: of a challenge
	}
	p, validation := problemOf(err)
	if p == nil && strings.Contains(err.Error(), validationLate) {
		return &failure{kind: ofName, text: fmt.Sprintf("%s did not get to validate %s in time. Check that all name servers of the name answer, and with what it is to have.", issuer, w.name)}
	}
	if p == nil {
		return &failure{kind: ofIssuer, text: issuer + " could not be asked, which is tried again by itself", err: err}
	}
	detail := task.Line(p.Detail, 512)
	say := func(k kind, format string, args ...any) *failure {
		return &failure{kind: k, text: fmt.Sprintf(format, args...)}
	}
	name := w.name.Base()
	dns := w.challengeName() == acme.ChallengeTypeDNS01
	switch strings.TrimPrefix(p.Type, acme.ProblemTypeNamespace) {
	case "caa":
		return say(ofName, "CAA records forbid %s to issue for %s: %s. Allow it in the DNS, or remove the CAA records.", issuer, w.name, detail)
	case "dns":
		return say(ofName, "%s got no good answer from the DNS for %s: %s. Check the name's records and its name servers.", issuer, name, detail)
	case "connection", "tls":
		return say(ofName, "%s could not connect to %s: %s. All A and AAAA records of the name must lead to this server, and port 80 must be open.", issuer, name, detail)
	case "rejectedIdentifier", "unsupportedIdentifier":
		return say(refused, "%s does not issue for %s: %s. Upload a certificate of your own, or use another name.", issuer, w.name, detail)
	case "unauthorized", "incorrectResponse":
		switch {
		case validation && dns:
			return say(ofName, "%s did not find its TXT record at _acme-challenge.%s: %s. Check that the DNS provider that is connected here answers for the name.", issuer, name, detail)
		case validation:
			return say(ofName, "%s got a wrong answer from %s: %s. All A and AAAA records of the name must lead to this server.", issuer, name, detail)
		}
		return say(ofIssuer, "%s refuses this platform's account: %s. The platform's operator has to see to it.", issuer, detail)
	case "rateLimited":
		f := say(limited, "%s has been asked for too much lately: %s. It is tried again by itself.", issuer, detail)
		f.until = hint.until(now, p.Detail)
		f.limited = map[string]time.Time{issuer: f.until}
		return f
	case "externalAccountRequired", "accountDoesNotExist", "userActionRequired", "invalidContact", "unsupportedContact":
		return say(ofIssuer, "%s refuses this platform's account: %s. The platform's operator has to see to it.", issuer, detail)
	}
	if validation && p.Type != acme.ProblemTypeServerInternal {
		return say(ofName, "%s could not validate %s: %s", issuer, w.name, detail)
	}
	return say(ofIssuer, "%s did not issue: %s. It is tried again by itself.", issuer, detail)
}

// validationLate is what acmez says, in words only, when a challenge that was
// presented is neither validated nor refused by the end of the polling.
const validationLate = "authorization took too long"

// problemOf finds what the CA said, and whether it said so of a validation.
func problemOf(err error) (p *acme.Problem, validation bool) {
	var value acme.Problem
	if errors.As(err, &value) {
		p = &value
	} else if !errors.As(err, &p) || p == nil {
		return nil, false
	}
	_, validation = p.Resource.(acme.Authorization)
	return p, validation
}

// both joins what several CAs failed by. A retry waits for the first that may be
// asked again.
func both(failures []*failure) *failure {
	if len(failures) == 1 {
		return failures[0]
	}
	out := &failure{kind: limited, limited: map[string]time.Time{}, unasked: true}
	var texts []string
	for i, f := range failures {
		texts = append(texts, task.Line(f.Error(), maxProblem/len(failures)))
		maps.Copy(out.limited, f.limited)
		if i == 0 || f.until.Before(out.until) {
			out.until = f.until
		}
		if f.kind != limited {
			out.kind = ofIssuer
		}
		out.unasked = out.unasked && f.unasked
	}
	out.text = strings.Join(texts, " | ")
	return out
}

// retryHint is what a CA's answer said of when to come back.
type retryHint struct{ after time.Time }

var retryAfterText = regexp.MustCompile(`(?i)retry after (\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d)`)

// until is when a CA that was asked too often may be asked again: it says so in
// a header or in words. Bounded, since a name must not wait for years because
// somebody mistyped a date.
func (h retryHint) until(now time.Time, detail string) time.Time {
	at := h.after
	if m := retryAfterText.FindStringSubmatch(detail); at.IsZero() && m != nil {
		at, _ = time.Parse("2006-01-02 15:04:05", strings.Replace(m[1], "T", " ", 1)) // zero when it is no date
	}
	return slices.MinFunc([]time.Time{slices.MaxFunc([]time.Time{at, now.Add(limitedAtLeast)}, time.Time.Compare), now.Add(hopelessWait)}, time.Time.Compare)
}

// limitedAtLeast is how long a CA is left alone that does not say how long: the
// shortest of Let's Encrypt's limits is counted by the hour.
const limitedAtLeast = time.Hour
