package nginx

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"chom.dev/agent/atomicfile"
	"chom.dev/agent/run"
	"chom.dev/proto/contract"
)

// try tests a site's new text together with everything live and sets aside
// the neighbours that stand in the way. Called with files held.
func (m *Manager) try(ctx context.Context, s Site, text []byte) ([]Aside, error) {
	trial := m.trial(s.Handle)
	if err := os.MkdirAll(filepath.Dir(trial), 0o700); err != nil {
		return nil, fmt.Errorf("test site %s: %w", s.Handle, err)
	}
	if _, err := atomicfile.Write(trial, text, 0o600, 0); err != nil {
		return nil, fmt.Errorf("test site %s: %w", s.Handle, err)
	}
	defer func() { _ = os.Remove(trial) }() // what stays behind is overwritten by the next try
	set, err := m.live()
	if err != nil {
		return nil, err
	}
	set[s.Handle] = trial
	found, warnings, err := m.judge(ctx, set, s.Handle)
	if err != nil {
		return nil, err
	}
	for _, name := range conflicts(warnings) {
		for _, domain := range s.Domains {
			if domain.String() == name {
				return nil, &RejectedError{s.Handle, "the name " + name + " is served for another site"}
			}
		}
	}
	if len(found) == 0 {
		return nil, nil
	}
	return found, m.change(func() error { return m.setAside(ctx, found) })
}

// live gives the file of every site that is served or about to be.
func (m *Manager) live() (map[contract.Handle]string, error) {
	handles, err := m.Sites()
	if err != nil {
		return nil, err
	}
	set := make(map[contract.Handle]string, len(handles))
	for _, h := range handles {
		set[h] = m.site(h)
	}
	return set, nil
}

// judge tests a set of sites until it passes, and takes out of it, one after
// the other, the neighbours that are to blame. If ours (zero: nobody) is, that
// is a RejectedError; if no site is, ErrBase. It changes no live file.
func (m *Manager) judge(ctx context.Context, set map[contract.Handle]string, ours contract.Handle) (aside []Aside, warnings string, err error) {
	for {
		out, ok, err := m.passes(ctx, set)
		if err != nil {
			return nil, "", err
		}
		if ok {
			return aside, out, nil
		}
		h, found := m.blamed(out, set)
		if !found {
			if h, found, err = m.search(ctx, set, ours); err != nil {
				return nil, "", err
			}
		}
		switch {
		case !found:
			return nil, "", fmt.Errorf("%w: %s", ErrBase, reason(out))
		case h == ours:
			return nil, "", &RejectedError{ours, reason(out)}
		}
		delete(set, h)
		aside = append(aside, Aside{Handle: h, Reason: reason(out)})
	}
}

// blamed reads from nginx's words whose file is at fault. nginx names the file
// in which it stopped reading, which is a site's own file or a snippet.
func (m *Manager) blamed(out string, set map[contract.Handle]string) (contract.Handle, bool) {
	if found := at.FindStringSubmatch(out); found != nil {
		for h, file := range set {
			if found[1] == file || path.Dir(found[1]) == m.snippets(h) {
				return h, true
			}
		}
		return contract.Handle{}, false
	}
	if found := unreadable.FindStringSubmatch(out); found != nil {
		if h, err := contract.ParseHandle(path.Base(path.Dir(found[1]))); err == nil {
			_, in := set[h]
			return h, in
		}
	}
	return contract.Handle{}, false
}

// unreadable finds a certificate that can't be used; they lie in directories of their
// sites' handles.
var unreadable = regexp.MustCompile(`\[emerg\] [^"]*"(/[^"]+\.pem)"`)

var at = regexp.MustCompile(`\[(?:emerg|crit)\] .* in (/[^\s]+):[0-9]+`)

// search finds a culprit that nginx did not name, e.g. of a certificate that
// can't be read: each site is tested alone, ours first.
func (m *Manager) search(ctx context.Context, set map[contract.Handle]string, ours contract.Handle) (contract.Handle, bool, error) {
	if _, ok, err := m.passes(ctx, nil); err != nil || !ok {
		return contract.Handle{}, false, err // no site is at fault
	}
	order := slices.SortedFunc(maps.Keys(set), func(a, b contract.Handle) int {
		if (a == ours) != (b == ours) {
			if a == ours {
				return -1
			}
			return 1
		}
		return strings.Compare(a.String(), b.String())
	})
	for _, h := range order {
		if _, ok, err := m.passes(ctx, map[contract.Handle]string{h: set[h]}); err != nil {
			return contract.Handle{}, false, err
		} else if !ok {
			return h, true, nil
		}
	}
	// Each passes alone and all together fail: the newcomer yields.
	_, in := set[ours]
	return ours, in, nil
}

// passes asks nginx about a set of sites within the rest of the live
// configuration.
func (m *Manager) passes(ctx context.Context, set map[contract.Handle]string) (out string, ok bool, err error) {
	text, err := m.wholeConfig(set)
	if err != nil {
		return "", false, err
	}
	if _, err := atomicfile.Write(m.candidate(), text, 0o600, 0); err != nil {
		return "", false, err
	}
	stderr, err := m.test(ctx, m.candidate())
	var exit *run.ExitError
	if errors.As(err, &exit) && exit.Cause == nil && exit.Signal == 0 {
		return string(stderr), false, nil
	}
	if err != nil {
		return "", false, fmt.Errorf("test nginx configuration: %w", err)
	}
	return string(stderr), true, nil
}

// wholeConfig is the host's nginx.conf with its include of conf.d replaced by
// the files it stands for, and CHOM's part replaced by the given sites. It
// lies beside the original so that relative includes mean the same.
func (m *Manager) wholeConfig(set map[contract.Handle]string) ([]byte, error) {
	text, err := os.ReadFile(m.etc + "/nginx.conf")
	if err != nil {
		return nil, fmt.Errorf("read nginx configuration: %w", err)
	}
	tree, err := parse(text)
	if err != nil {
		return nil, fmt.Errorf("%w: %s/nginx.conf: %w", ErrBase, m.etc, err)
	}
	replaced := false
	for i, d := range tree {
		if d.Name != "http" {
			continue
		}
		var inside []Directive
		for _, d := range d.Block {
			if !m.isConfD(d) {
				inside = append(inside, d)
				continue
			}
			part, err := m.confD(set)
			if err != nil {
				return nil, err
			}
			inside, replaced = append(inside, part...), true
		}
		tree[i].Block = inside
	}
	if !replaced {
		return nil, fmt.Errorf("%w: %s/nginx.conf does not include conf.d/*.conf in http", ErrBase, m.etc)
	}
	return render(tree)
}

func (m *Manager) isConfD(d Directive) bool {
	if d.Name != "include" || len(d.Args) != 1 {
		return false
	}
	file := d.Args[0]
	if !path.IsAbs(file) {
		file = m.etc + "/" + file
	}
	return path.Clean(file) == m.etc+"/conf.d/*.conf"
}

// confD is what the include of conf.d stands for, in nginx's order.
func (m *Manager) confD(set map[contract.Handle]string) ([]Directive, error) {
	files, err := filepath.Glob(m.etc + "/conf.d/*.conf")
	if err != nil {
		return nil, err
	}
	if !slices.Contains(files, m.main()) {
		files = append(files, m.main())
		slices.Sort(files)
	}
	var out []Directive
	for _, f := range files {
		if f != m.main() {
			out = append(out, d("include", f))
			continue
		}
		out = append(out, m.base()...)
		for _, h := range slices.SortedFunc(maps.Keys(set), func(a, b contract.Handle) int { return strings.Compare(a.String(), b.String()) }) {
			out = append(out, d("include", set[h]))
		}
	}
	return out, nil
}

// setAside moves sites out of the way, and serves their last good versions
// where those pass.
func (m *Manager) setAside(ctx context.Context, aside []Aside) error {
	for i := range aside {
		a := &aside[i]
		if err := atomicfile.Rename(m.site(a.Handle), m.broken()+"/"+a.Handle.String()+".conf"); err != nil {
			return fmt.Errorf("set site %s aside: %w", a.Handle, err)
		}
		if good, err := os.ReadFile(m.keep(a.Handle)); err == nil {
			set, err := m.live()
			if err != nil {
				return err
			}
			set[a.Handle] = m.keep(a.Handle)
			if _, a.Restored, err = m.passes(ctx, set); err != nil {
				return err
			}
			if a.Restored {
				if _, err := atomicfile.Write(m.site(a.Handle), good, 0o644, 0); err != nil {
					return fmt.Errorf("set site %s aside: %w", a.Handle, err)
				}
			}
		}
		m.log.Error("site set aside, it breaks the nginx configuration", "site", a.Handle.String(), "reason", a.Reason, "restored", a.Restored)
	}
	return nil
}

var conflicting = regexp.MustCompile(`conflicting server name "([^"]+)"`)

// conflicts lists names that nginx says are claimed twice; the second claim is
// ignored by it, silently for everyone but its log.
func conflicts(out string) []string {
	var names []string
	for _, f := range conflicting.FindAllStringSubmatch(out, -1) {
		names = append(names, f[1])
	}
	return names
}

// reason is the line in which nginx says what is wrong.
func reason(out string) string {
	for line := range strings.Lines(out) {
		if strings.Contains(line, "[emerg]") || strings.Contains(line, "[crit]") {
			return strings.TrimSpace(strings.TrimPrefix(line, "nginx: "))
		}
	}
	return strings.TrimSpace(out)
}
