package e2e

import (
	"testing"

	"chom.dev/packaging/lab"
)

// TestHostFaults does to hosts what happens to hosts. Each release is a lane of
// its own: faults of one host are nothing to the other, so both run at once.
// The short form gives each fault to one release, the long one to both.
func TestHostFaults(t *testing.T) {
	type fault struct {
		name    string
		release lab.Release // in the short form
		claim   func(t *testing.T, w *shared, h *host, waste *rubbish)
	}
	faults := []fault{
		{"agent killed before each step", lab.Bookworm, killAgentBriefly("before")},
		{"agent killed after each step", lab.Trixie, killAgentBriefly("after")},
		{"agent killed in WordPress", lab.Bookworm, killWordPressBriefly},
		{"power lost", lab.Trixie, losePower},
		{"agent killed while installing", lab.Trixie, killAgentWhileInstalling},
		{"network cut", lab.Bookworm, cutNetwork},
		{"task canceled", lab.Bookworm, cancelBetweenSteps},
		{"deadline passed", lab.Trixie, passDeadlines},
		{"disk full", lab.Trixie, fillDisks},
		{"database stopped", lab.Trixie, stopDatabase},
		{"mirror bad", lab.Trixie, spoilMirror},
		{"nginx stopped", lab.Bookworm, stopNginx},
	}
	if proving {
		faults = append(faults, fault{name: "agent killed at each point", claim: killAgentEverywhere})
	}
	t.Run("enrolment", func(t *testing.T) {
		t.Parallel()
		enrolment(t, &world)
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		postgres(t)
	})
	for _, release := range lab.Releases {
		t.Run(string(release), func(t *testing.T) {
			t.Parallel()
			h := world.hosts[release]
			waste := world.heap(h)
			waste.empty(t)
			kept := appoint(t, &world, h, waste)
			for _, f := range faults {
				if !proving && f.release != release {
					continue
				}
				t.Run(f.name, func(t *testing.T) {
					f.claim(t, &world, h, waste)
				})
			}
			t.Run("WordPress kept its schedule through all that", kept)
			waste.empty(t)
		})
	}
}
