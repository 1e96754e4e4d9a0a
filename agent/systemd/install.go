package systemd

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"

	"chom.dev/agent/atomicfile"
)

// ours are the unit names that this package may write, remove and enable.
var ours = regexp.MustCompile(`^(chom|chom-[a-z0-9-]+|srv-chom)\.(service|timer|slice|mount|target)$`)

// Install writes unit files and makes systemd read them, and reports which of
// them changed. systemd finds new units by itself; it is told to reload (which
// costs more the more units a host has) only when it holds an older version.
func (h *Host) Install(ctx context.Context, units ...Unit) (changed []string, err error) {
	for _, u := range units {
		if !ours.MatchString(u.Name) {
			return nil, fmt.Errorf("install unit: %q is not a name of ours", u.Name)
		}
		text, err := u.text()
		if err != nil {
			return nil, err
		}
		wrote, err := atomicfile.Write(filepath.Join(h.dir, u.Name), text, 0o644, 0)
		if err != nil {
			return nil, fmt.Errorf("install unit: %w", err)
		}
		if wrote {
			changed = append(changed, u.Name)
		}
	}
	names := make([]string, len(units))
	for i, u := range units {
		names[i] = u.Name
	}
	// All are asked, not only the changed ones: an earlier try may have died
	// between writing and reloading.
	return changed, h.reloadIfStale(ctx, names)
}

func (h *Host) reloadIfStale(ctx context.Context, names []string) error {
	stale := false
	for _, name := range names {
		st, err := h.State(ctx, name)
		if err != nil {
			return err
		}
		// A slice that came to life before its file has no file and is not
		// called stale.
		stale = stale || st.stale || st.Load != "masked" && st.fragment != filepath.Join(h.dir, name)
	}
	if !stale {
		return nil
	}
	return h.DaemonReload(ctx)
}

// DaemonReload makes systemd read all unit files.
func (h *Host) DaemonReload(ctx context.Context) error {
	conn, err := h.connect()
	if err != nil {
		return err
	}
	if err := conn.ReloadContext(ctx); err != nil {
		return fmt.Errorf("reload unit files: %w", err)
	}
	return nil
}

// Uninstall stops units, disables them and removes their files. Units that are
// not there are fine.
func (h *Host) Uninstall(ctx context.Context, names ...string) error {
	removed := false
	for _, name := range names {
		if !ours.MatchString(name) {
			return fmt.Errorf("uninstall unit: %q is not a name of ours", name)
		}
		if err := h.Stop(ctx, name); err != nil {
			return err
		}
		links, err := filepath.Glob(filepath.Join(h.dir, "*.wants", name))
		if err != nil {
			return err
		}
		for _, path := range append(links, filepath.Join(h.dir, name)) {
			was, err := atomicfile.Remove(path)
			if err != nil {
				return fmt.Errorf("uninstall unit: %w", err)
			}
			removed = removed || was
		}
		if err := h.ResetFailed(ctx, name); err != nil {
			return err
		}
	}
	if !removed {
		return nil
	}
	return h.forget(ctx, names)
}

// forget reloads only if systemd still holds one of the removed units: what is
// stopped and not referred to leaves its memory by itself.
func (h *Host) forget(ctx context.Context, names []string) error {
	for _, name := range names {
		st, err := h.State(ctx, name)
		if err != nil {
			return err
		}
		if st.stale || st.fragment != "" {
			return h.DaemonReload(ctx)
		}
	}
	return nil
}

// Enable makes a unit start at boot, by a link in the target's directory.
func (h *Host) Enable(unit, target string) error {
	if !ours.MatchString(unit) || !slices.Contains([]string{"multi-user.target", "timers.target", "local-fs.target"}, target) {
		return fmt.Errorf("enable: %q in %q is not for us to decide", unit, target)
	}
	dir := filepath.Join(h.dir, target+".wants")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("enable %s: %w", unit, err)
	}
	if _, err := atomicfile.Link(filepath.Join(dir, unit), filepath.Join(h.dir, unit)); err != nil {
		return fmt.Errorf("enable %s: %w", unit, err)
	}
	return nil
}

// Disable undoes Enable. A unit that wasn't enabled is fine.
func (h *Host) Disable(unit, target string) error {
	if !ours.MatchString(unit) {
		return fmt.Errorf("disable: %q is not a name of ours", unit)
	}
	if _, err := atomicfile.Remove(filepath.Join(h.dir, target+".wants", unit)); err != nil {
		return fmt.Errorf("disable %s: %w", unit, err)
	}
	return nil
}

var distributed = regexp.MustCompile(`^[a-z][a-z0-9.-]*\.service$`)

// Mask stops a service of the distribution and keeps it from ever starting. A
// service that doesn't exist is masked too: it may be installed later.
func (h *Host) Mask(ctx context.Context, service string) error {
	if !distributed.MatchString(service) || ours.MatchString(service) {
		return fmt.Errorf("mask: %q is not a service of the distribution", service)
	}
	changed, err := atomicfile.Link(filepath.Join(h.dir, service), "/dev/null")
	if err != nil {
		return fmt.Errorf("mask: %w", err)
	}
	st, err := h.State(ctx, service)
	if err != nil {
		return err
	}
	if changed || st.Load != "masked" {
		if err := h.DaemonReload(ctx); err != nil {
			return err
		}
	}
	if st.Active == "inactive" || st.Active == "failed" {
		return nil
	}
	return h.Stop(ctx, service)
}

// DropIn adds settings to a service of the distribution, in a file of their
// own (settings.Name, e.g. "60-chom.conf"), and reports whether they changed.
// They count for processes started afterwards.
func (h *Host) DropIn(ctx context.Context, service string, settings Unit) (changed bool, err error) {
	if !distributed.MatchString(service) || ours.MatchString(service) || settings.Name != "60-chom.conf" {
		return false, fmt.Errorf("drop-in %s of %q is not for us to write", settings.Name, service)
	}
	text, err := settings.text()
	if err != nil {
		return false, err
	}
	dir := filepath.Join(h.dir, service+".d")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return false, fmt.Errorf("drop-in of %s: %w", service, err)
	}
	changed, err = atomicfile.Write(filepath.Join(dir, settings.Name), text, 0o644, 0)
	if err != nil {
		return false, fmt.Errorf("drop-in of %s: %w", service, err)
	}
	st, err := h.State(ctx, service)
	if err != nil {
		return changed, err
	}
	if !st.stale {
		return changed, nil
	}
	return true, h.DaemonReload(ctx)
}
