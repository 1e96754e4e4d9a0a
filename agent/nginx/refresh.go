package nginx

import (
	"context"
	"errors"
	"fmt"

	"chom.dev/agent/atomicfile"
)

// Refresh has nginx read the certificates of sites again, and what follows for
// them from having some: one test for each site whose configuration changes, and
// one reload for all. A site that nginx rejects stays as it is, and is told of in
// the error; the others go on.
func (m *Manager) Refresh(ctx context.Context, sites []Site) error {
	var failed []error
	var changed []Site
	for _, s := range sites {
		done, err := m.refresh(ctx, s)
		if err != nil {
			failed = append(failed, fmt.Errorf("refresh site %s: %w", s.Handle, err))
		} else if done {
			changed = append(changed, s)
		}
	}
	// Certificates are read when nginx loads, though no file of its configuration changed.
	m.files.Lock()
	err := m.bump()
	m.files.Unlock()
	if err == nil {
		err = m.load(ctx)
	}
	if err != nil {
		for _, s := range changed {
			err = errors.Join(err, m.goBack(ctx, s.Handle))
		}
		return errors.Join(append(failed, err)...)
	}
	for _, s := range changed {
		tree, err := m.serverBlock(s)
		if err == nil {
			var text []byte
			if text, err = render(tree); err == nil {
				_, err = atomicfile.Write(m.keep(s.Handle), text, 0o644, 0)
			}
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("keep site %s: %w", s.Handle, err))
		}
	}
	return errors.Join(failed...)
}

// refresh puts a site's configuration in its place, if it is another one.
func (m *Manager) refresh(ctx context.Context, s Site) (changed bool, err error) {
	tree, err := m.serverBlock(s)
	if err != nil {
		return false, err
	}
	text, err := render(tree)
	if err != nil {
		return false, err
	}
	report, err := m.swap(ctx, s, text)
	return report.Changed, err
}
