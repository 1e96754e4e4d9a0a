package target

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"time"

	"chom.dev/controlplane/backup/store"
	"chom.dev/controlplane/fault"
	"chom.dev/proto/contract"
)

// tryWithin bounds the trial of a target: somebody waits, and people's door breaks off after 25 s.
const tryWithin = 20 * time.Second

// try writes an object to a target, reads it, lists and deletes it, and says in words what failed; empty when all of it works. It lies
// in a repository of no site, of which nothing is left.
func try(ctx context.Context, of Target, s store.Store) string {
	ctx, cancel := context.WithTimeout(ctx, tryWithin)
	defer cancel()
	at := store.Repository{Organization: of.Organization, Site: contract.NewSiteID()}
	what, err := trial(ctx, s, at)
	if what != "written" {
		// Also where that has failed: what it has left is nobody's.
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), tryWithin/10)
		defer cancel()
		removed := s.Remove(end, at)
		if err == nil && removed != nil {
			what, err = "removed", removed
		}
	}
	if err == nil {
		return ""
	}
	return fmt.Sprintf("an object can't be %s: %s. %s", what, reason(err), advice(of))
}

var errOther = fault.Conflict("what came back is something else than what was written")

// trial says which step failed.
func trial(ctx context.Context, s store.Store, at store.Repository) (step string, err error) {
	content := []byte("chom writes this to see whether it can: " + rand.Text() + "\n")
	sum := sha256.Sum256(content)
	name, err := store.ParseName(store.Locks, hex.EncodeToString(sum[:]))
	if err != nil {
		return "written", err
	}
	if err := s.Put(ctx, at, name, int64(len(content)), bytes.NewReader(content)); err != nil {
		return "written", err
	}
	part, err := s.Get(ctx, at, name, 0, 0)
	if err != nil {
		return "read", err
	}
	back, err := io.ReadAll(io.LimitReader(part, int64(len(content))+1))
	if err := errors.Join(err, part.Close()); err != nil {
		return "read", err
	}
	if !bytes.Equal(back, content) {
		return "read", errOther
	}
	found, err := s.List(ctx, at, store.Locks)
	if err != nil {
		return "listed", err
	}
	if len(found) != 1 || found[0].Name != name {
		return "listed", errOther
	}
	if err := s.Delete(ctx, at, name); err != nil {
		return "deleted", err
	}
	if _, err := s.Stat(ctx, at, name); !errors.Is(err, store.ErrNotFound) {
		return "deleted", errors.Join(err, errOther)
	}
	return "removed", nil
}

// reason are the words for what is wrong with a target.
func reason(err error) string {
	if f, isFault := fault.Of(err); isFault {
		return f.Error()
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return "it did not answer in time"
	}
	return "the control plane can't; its log says why"
}

// advice is what to do about it.
func advice(of Target) string {
	return fmt.Sprintf("Put that right there, or give the target %q what lets in (chom backup target update), and check it (chom backup target check)", of.Name)
}
