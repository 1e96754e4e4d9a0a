package site

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	orderv1 "chom.dev/proto/gen/chom/order/v1"

	"chom.dev/controlplane/audit"
	"chom.dev/controlplane/db"
	"chom.dev/controlplane/fault"
	"chom.dev/controlplane/task"
	"chom.dev/proto/contract"
)

// loginLife is how long a login link works, counted from the request.
const loginLife = 60 * time.Second

// loginWait is how long CreateLogin waits for the host. What is left of the link's life is for its bearer.
const loginWait = 15 * time.Second

// Login is a link that signs its bearer in as a site's administrator, once. It is a secret: show it once and store it nowhere.
type Login struct {
	URL       string
	ExpiresAt time.Time
}

// Errors of CreateLogin.
var (
	ErrNoLogin   = fault.Conflict("sites of this type have no administrators to sign in as")
	ErrNotActive = fault.Conflict("the site is not active")
	ErrLoginLate = fault.Unavailable("the site's host did not answer in time", 5*time.Second, nil)
)

// CreateLogin has the site's host arm a link and returns it. The order holds only the hash of the link's token, so that neither
// the database nor the wire can sign anybody in. The request is in the audit before the host hears of it.
func (s *Sites) CreateLogin(ctx context.Context, organization contract.OrganizationID, id contract.SiteID) (Login, error) {
	var secret [32]byte
	rand.Read(secret[:]) // never fails: crypto/rand ends the program instead
	token := base64.RawURLEncoding.EncodeToString(secret[:])
	hash := sha256.Sum256([]byte(token))
	expires := time.Now().Add(loginLife)

	var link string
	var ordered task.Task
	err := db.InTx(ctx, s.db, func(tx *db.Tx) error {
		site, err := lock(ctx, tx, organization, id)
		if err != nil {
			return err
		}
		kind, err := parseType(site.Wanted.Type.String())
		if err != nil {
			return err
		}
		if !kind.canLogIn {
			return ErrNoLogin
		}
		if site.State != StateActive {
			return ErrNotActive
		}
		link = site.URL(time.Now()) + "?chom_login=" + token
		ordered, err = task.Enqueue(ctx, tx, task.New{
			Organization: organization.String(),
			Server:       site.Server.String(),
			Site:         id.String(),
			Kind:         task.SiteLogin,
			Parameters: &orderv1.SiteLogin{
				Handle:      site.Handle.String(),
				TokenSha256: hash[:],
				ExpireTime:  timestamppb.New(expires),
			},
			Timeout:   loginWait,
			Deadline:  time.Now().Add(loginWait),
			CreatedBy: audit.ActorOf(ctx).Account(),
		})
		if err != nil {
			return err
		}
		return audit.Record(ctx, tx, audit.Event{Organization: organization.String(), Action: "site.login", Object: id.String()})
	}, db.ReadCommitted())
	if err != nil {
		return Login{}, fmt.Errorf("create login to site %s: %w", id, err)
	}
	if err := s.awaitLogin(ctx, ordered); err != nil {
		return Login{}, fmt.Errorf("create login to site %s: %w", id, err)
	}
	return Login{URL: link, ExpiresAt: expires}, nil
}

// awaitLogin waits until the host has armed the link.
func (s *Sites) awaitLogin(ctx context.Context, ordered task.Task) error {
	ctx, cancel := context.WithTimeout(ctx, loginWait)
	defer cancel()
	for {
		now, err := s.tasks.Get(ctx, ordered.Organization, ordered.ID)
		switch {
		case ctx.Err() != nil:
			return ErrLoginLate
		case err != nil:
			return err
		case now.State == task.Succeeded:
			return nil
		case now.State == task.TimedOut:
			return ErrLoginLate
		case now.State.Ended():
			return fault.Conflict("the site's host could not arm a login: " + now.Error)
		}
		select {
		case <-ctx.Done():
		case <-time.After(loginLook):
		}
	}
}

// loginLook is how often awaitLogin looks; a person waits for it, and it is a read of one row.
const loginLook = 50 * time.Millisecond
