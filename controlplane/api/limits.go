package api

import (
	"context"
	"net/http"
	"strconv"

	"chom.dev/controlplane/account"
	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/limit"
)

// recognize finds out who calls. An address that has sent wrong tokens is refused before the next one is even looked at, so
// that a right one among many guesses does not show. An expired cookie is no guess: browsers have them.
func (d *door) recognize(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, c := r.Context(), callOf(r.Context())
		c.rule = rules[r.URL.Path] // no row is the zero rule, which denies
		byToken, guesses := r.Header.Get("Authorization") != "", "guess "+network(c.address)
		if byToken {
			if verdict := d.limits.Look(ctx, limit.Auth, guesses); !verdict.Allowed {
				tell(w.Header(), verdict)
				d.refuse(w, r, verdict.Err())
				return
			}
		}
		caller, err := d.authenticate(r)
		if err != nil {
			if byToken && fault.KindOf(err) == fault.KindUnauthenticated {
				tell(w.Header(), d.limits.Take(ctx, limit.Auth, guesses))
			}
			d.refuse(w, r, err)
			return
		}
		c.caller = caller
		c.recognize = func(ctx context.Context) (*account.Caller, error) { return d.authenticate(r.WithContext(ctx)) }
		next.ServeHTTP(w, r)
	})
}

// limit refuses who calls too often.
func (d *door) limit(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := callOf(r.Context())
		verdict := d.limits.Take(r.Context(), classOf(c.rule, c.caller), limitKeys(c)...)
		tell(w.Header(), verdict)
		if err := verdict.Err(); err != nil {
			d.refuse(w, r, err)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// classOf is the class that a call counts in.
func classOf(rule rule, caller *account.Caller) string {
	switch {
	case rule.class != "":
		return rule.class
	case rule.who == anybody:
		return limit.Auth // who proves themselves, guesses
	case caller != nil && caller.Operator:
		return limit.Operator
	case caller != nil && caller.Session != "":
		return limit.Session
	}
	return limit.API
}

// limitKeys are what a call counts under: its person or organization and its token. The address counts where nobody is known,
// and for what is dear; for the rest it does not, since whole offices share one.
func limitKeys(c *call) []string {
	var keys []string
	if c.caller != nil {
		if c.caller.ID != "" {
			keys = append(keys, "account "+c.caller.ID)
		} else {
			keys = append(keys, "organization "+c.caller.Organization)
		}
		if c.caller.Token != "" {
			keys = append(keys, "token "+c.caller.Token)
		}
	}
	if c.caller == nil || c.rule.who == anybody || c.rule.class != "" {
		keys = append(keys, "address "+network(c.address))
	}
	return keys
}

// tell writes the headers of draft-ietf-httpapi-ratelimit-headers-06: how many calls of this class a minute has, how many
// are left, and in how many seconds the next one becomes free.
func tell(header http.Header, v limit.Verdict) {
	header.Set("RateLimit-Limit", strconv.Itoa(v.Limit))
	header.Set("RateLimit-Remaining", strconv.Itoa(v.Remaining))
	header.Set("RateLimit-Reset", strconv.Itoa(limit.Seconds(v.Reset)))
}
