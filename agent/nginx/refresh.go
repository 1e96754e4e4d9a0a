package nginx

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"chom.dev/agent/atomicfile"
	"chom.dev/proto/contract"
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
	if err != nil {
		return false, err
	}
	_, err = atomicfile.Write(m.keep(s.Handle), text, 0o644, 0) // also after a crash between the two
	return report.Changed, err
}

// Reload has nginx read everything again, and returns when that is served:
// certificates are read when it loads, though no file of its own changed. One
// site must not keep the others from it: who breaks the configuration is mended, if
// mend can do that (it says so), or set aside and reported.
func (m *Manager) Reload(ctx context.Context, mend func(contract.Handle) bool) (Report, error) {
	report, err := m.passing(ctx, mend)
	if err != nil {
		return report, err
	}
	return report, m.load(ctx)
}

// passing brings the files to where nginx takes them, under a new generation.
func (m *Manager) passing(ctx context.Context, mend func(contract.Handle) bool) (Report, error) {
	m.files.Lock()
	defer m.files.Unlock()
	var report Report
	for {
		set, err := m.live()
		if err != nil {
			return report, err
		}
		found, _, err := m.judge(ctx, set, contract.Handle{})
		if err != nil {
			return report, err
		}
		mended := false
		for _, a := range found {
			mended = mend != nil && mend(a.Handle) || mended
		}
		if mended {
			continue
		}
		if len(found) > 0 {
			report.SetAside = found
			if err := m.change(func() error { return m.setAside(ctx, found) }); err != nil {
				return report, err
			}
		}
		return report, m.bump()
	}
}

// Certified gives the names that a site is served under by HTTPS, as its
// configuration on disk has it, each with the file of its certificate. A site that
// isn't there has none.
func (m *Manager) Certified(h contract.Handle) (map[contract.Domain]string, error) {
	text, err := os.ReadFile(m.site(h))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read site %s: %w", h, err)
	}
	tree, err := parse(text)
	if err != nil {
		return nil, fmt.Errorf("read site %s: %w", h, err)
	}
	found := map[contract.Domain]string{}
	for _, server := range tree {
		var names []string
		file := ""
		for _, d := range server.Block {
			switch d.Name {
			case "server_name":
				names = d.Args
			case "ssl_certificate":
				file = d.Args[0]
			}
		}
		for _, name := range names {
			if domain, err := contract.ParsePattern(name); err == nil && file != "" {
				found[domain] = file
			}
		}
	}
	return found, nil
}
