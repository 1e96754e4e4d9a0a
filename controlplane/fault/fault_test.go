package fault_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"chom.dev/controlplane/fault"
)

func TestFault(t *testing.T) {
	t.Run("the kind survives wrapping", func(t *testing.T) {
		for _, f := range []*fault.Fault{
			fault.Invalid("name", "must not be empty"), fault.Unauthenticated("no token"), fault.Denied("not yours"),
			fault.NotFound("site"), fault.Conflict("taken"), fault.Changed("not any more"), fault.Limited("too often", time.Second),
			fault.Unavailable("busy", time.Second, nil),
		} {
			err := fmt.Errorf("create site: %w", f)
			if got := fault.KindOf(err); got != f.Kind() || got == fault.KindInternal {
				t.Errorf("KindOf(%v) = %v", err, got)
			}
		}
	})
	t.Run("anything else is internal", func(t *testing.T) {
		if k := fault.KindOf(errors.New("disk on fire")); k != fault.KindInternal {
			t.Errorf("got %v", k)
		}
	})
	t.Run("an invalid field is named", func(t *testing.T) {
		f, ok := fault.Of(fmt.Errorf("x: %w", fault.Invalid("domains", "must not be empty")))
		if !ok || f.Field() != "domains" || f.Rule() != "must not be empty" || f.Error() != "domains: must not be empty" {
			t.Errorf("got %v", f)
		}
	})
	t.Run("the cause is reachable but not shown", func(t *testing.T) {
		cause := errors.New("dial tcp 10.0.0.7:5432: refused")
		f := fault.Unavailable("the database does not answer", time.Second, cause)
		if !errors.Is(f, cause) || f.Error() != "the database does not answer" {
			t.Errorf("got %q, cause reachable: %v", f.Error(), errors.Is(f, cause))
		}
	})
}
