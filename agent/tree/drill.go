package tree

import (
	"context"
	"fmt"
	"slices"

	"chom.dev/proto/contract"
)

// drill is the name of the place in a shell where a drill puts a backup together,
// and looks at it. There it is mounted in the place of the shell:
//
//	<handle>/drill         root:s-<h>   0710  made for a drill, gone at its end
//	    public             s-<h>:s-<h>        as in the shell
//	    private            s-<h>:s-<h>        as in the shell
//	    database           s-<h>:s-<h>  0700  data of the drill's own MariaDB
const drill = "drill"

// DrillDatabase is the directory for a server's data in a site's place for drills.
const DrillDatabase = "database"

var inDrill = append(slices.Clone(inside), directory{DrillDatabase, 0o700})

// Drill is the site's place for a drill.
func (s Shells) Drill(h contract.Handle) string { return s.dir + "/" + h.String() + "/" + drill }

// EnsureDrill makes the place and the tenant's directories in it, as Ensure makes
// those of the shell.
func (s Shells) EnsureDrill(h contract.Handle, uid int) error {
	if h.IsZero() || uid <= 0 {
		return fmt.Errorf("ensure place for a drill: no handle or user")
	}
	if err := s.ensurePlace(h, uid, drill, inDrill); err != nil {
		return fmt.Errorf("ensure place for a drill %s: %w", h, err)
	}
	return nil
}

// Drilled tells whether there is a place for a drill, however much is in it.
func (s Shells) Drilled(h contract.Handle) (bool, error) { return s.has(h, drill) }

// RemoveDrill deletes the place and what is in it, the tenant's files by the
// tenant's own user as Remove does. Whatever ran there must have ended.
func (s Shells) RemoveDrill(ctx context.Context, r runner, agent string, h contract.Handle) error {
	if h.IsZero() {
		return fmt.Errorf("remove place of a drill: no handle")
	}
	if err := s.removePlace(ctx, r, agent, h, drill, inDrill); err != nil {
		return fmt.Errorf("remove place of a drill %s: %w", h, err)
	}
	return nil
}
