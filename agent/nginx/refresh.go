package nginx

import (
	"context"
	"fmt"

	"chom.dev/agent/atomicfile"
)

// Place puts a site's configuration in its place after its certificates changed,
// and says whether it is another one: the next Reload serves it. There is no probe,
// since nothing but certificates may differ from what was probed. If nginx rejects
// it, nothing has changed.
func (m *Manager) Place(ctx context.Context, s Site) (changed bool, err error) {
	tree, err := m.serverBlock(s)
	if err != nil {
		return false, err
	}
	text, err := render(tree)
	if err != nil {
		return false, fmt.Errorf("render site %s: %w", s.Handle, err)
	}
	report, err := m.swap(ctx, s, text)
	if err != nil || !report.Changed {
		return false, err
	}
	_, err = atomicfile.Write(m.keep(s.Handle), text, 0o644, 0)
	return true, err
}

// Reload has nginx read everything again, and returns when that is served:
// certificates are read when it loads, though no file of its own changed.
func (m *Manager) Reload(ctx context.Context) error {
	m.files.Lock()
	err := m.bump()
	m.files.Unlock()
	if err != nil {
		return err
	}
	return m.load(ctx)
}
