package tree

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"time"

	"chom.dev/agent/fail"
	"chom.dev/agent/run"
	"chom.dev/proto/contract"
)

// supervisor ends the processes of a site, and runs one.
type supervisor interface {
	Kill(ctx context.Context, unit string) error
	Stop(ctx context.Context, unit string) error
	Run(ctx context.Context, u run.Unit) (run.Result, error)
}

// emptyWithin bounds the deletion of a site's files: a few million of them on
// a slow disk.
const emptyWithin = 30 * time.Minute

// Remove deletes a site's tree: first every process in the site's slice, then
// the files, by the site's own user in its sandbox (the program "agent" with
// the arguments "sandbox empty-tree DIR..." must call Empty), then the empty
// directories, by root. It can be repeated after any interruption.
func (s Shells) Remove(ctx context.Context, sup supervisor, agent string, h contract.Handle) error {
	if h.IsZero() {
		return fmt.Errorf("remove tree: no handle")
	}
	if err := sup.Kill(ctx, h.Slice()); err != nil {
		return fmt.Errorf("remove tree %s: %w", h, err)
	}
	if err := sup.Stop(ctx, h.Slice()); err != nil {
		return fmt.Errorf("remove tree %s: %w", h, err)
	}
	fail.Point("tree.processes-killed")
	if err := s.RemoveStaging(ctx, sup, agent, h); err != nil {
		return fmt.Errorf("remove tree %s: %w", h, err)
	}
	if err := s.RemoveDrill(ctx, sup, agent, h); err != nil {
		return fmt.Errorf("remove tree %s: %w", h, err)
	}
	full, err := s.full(h, "", inside)
	if err != nil {
		return fmt.Errorf("remove tree %s: %w", h, err)
	}
	if err := s.empty(ctx, sup, agent, h, full); err != nil {
		return fmt.Errorf("remove tree %s: %w", h, err)
	}
	if err := s.fold(h); err != nil {
		return fmt.Errorf("remove tree %s: %w", h, err)
	}
	return nil
}

// empty has the site's user delete what is in the directories.
func (s Shells) empty(ctx context.Context, r runner, agent string, h contract.Handle, dirs []string) error {
	if len(dirs) == 0 {
		return nil
	}
	u, err := run.SiteUnit{
		Handle: h, Name: "empty", Dir: "/", Timeout: emptyWithin,
		Argv: append([]string{agent, "sandbox", "empty-tree"}, dirs...),
	}.Unit()
	if err == nil {
		_, err = r.Run(ctx, u)
	}
	if err != nil {
		return fmt.Errorf("empty it: %w", err)
	}
	fail.Point("tree.emptied")
	return nil
}

// full lists the tenant's directories in the shell, or in a place in it. Those
// that root made but never handed over are empty, and not for the tenant to enter.
func (s Shells) full(h contract.Handle, place string, dirs []directory) ([]string, error) {
	sites, err := s.open()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer sites.Close() // read-only
	var out []string
	for _, d := range dirs {
		path := path.Join(h.String(), place, d.name)
		st, err := sites.Lstat(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if owner(st) != s.root {
			out = append(out, s.dir+"/"+path)
		}
	}
	return out, nil
}

// fold removes the empty directories, the shell last. Removing a directory
// that still holds something fails, which is all the safety this needs.
func (s Shells) fold(h contract.Handle) error {
	sites, err := s.open()
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer sites.Close() // read-only
	for _, d := range inside {
		if err := sites.Remove(h.String() + "/" + d.name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		fail.Point("tree." + d.name + "-removed")
	}
	if err := sites.Remove(h.String()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return syncRoot(sites)
}
