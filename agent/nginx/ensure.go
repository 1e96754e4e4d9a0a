package nginx

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"chom.dev/agent/atomicfile"
	"chom.dev/agent/run"
	"chom.dev/agent/systemd"
	"chom.dev/proto/contract"
)

// EnsureBase prepares nginx for sites and repairs what a crash or a person
// left: directories, the default server that refuses unknown names, limits of
// the service, sites that break the configuration. It starts nginx or loads
// what isn't loaded. Doing it again changes nothing.
func (m *Manager) EnsureBase(ctx context.Context) (Report, error) {
	report, err := m.ensureFiles(ctx)
	if err != nil {
		return report, fmt.Errorf("prepare nginx: %w", err)
	}
	limits, err := m.host.DropIn(ctx, service, systemd.Unit{Name: "60-chom.conf", Sections: []systemd.Section{
		{Name: "Service", Settings: []run.Property{
			{Key: "LimitNOFILE", Value: openFiles},
			{Key: "Restart", Value: "on-failure"}, // the distribution's unit stays down after a kill
			{Key: "RestartSec", Value: "200ms"},
		}},
	}})
	if err != nil {
		return report, fmt.Errorf("prepare nginx: %w", err)
	}
	if limits { // they count for a new process only
		if err := m.host.Restart(ctx, service); err != nil {
			return report, fmt.Errorf("prepare nginx: %w", err)
		}
	}
	if err := m.load(ctx); err != nil {
		return report, fmt.Errorf("prepare nginx: %w", err)
	}
	return report, nil
}

// HasBase reports whether EnsureBase was here before.
func (m *Manager) HasBase() (bool, error) {
	_, err := os.Lstat(m.main())
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

func (m *Manager) ensureFiles(ctx context.Context) (Report, error) {
	m.files.Lock()
	defer m.files.Unlock()
	for _, dir := range []string{m.chom(), m.sites(), m.good(), m.broken(), m.chom() + "/snippets", m.etc + "/conf.d"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return Report{}, err
		}
	}
	if err := os.MkdirAll(m.logs, 0o755); err != nil {
		return Report{}, err
	}
	if _, err := atomicfile.Write(m.rotate, m.rotation(), 0o644, 0); err != nil {
		return Report{}, err
	}
	if err := m.dropDistributionSite(); err != nil {
		return Report{}, err
	}
	report, err := m.repair(ctx)
	if err != nil {
		return report, err
	}
	text, err := render(append(m.base(), d("include", m.generation()), d("include", m.sites()+"/*.conf")))
	if err != nil {
		return report, err
	}
	old, err := os.ReadFile(m.main())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return report, err
	}
	if gen, err := m.onDisk(); err != nil {
		return report, err
	} else if gen == 0 || string(old) != string(text) {
		if err := m.change(func() error {
			_, err := atomicfile.Write(m.main(), text, 0o644, 0)
			return err
		}); err != nil {
			return report, err
		}
		report.Changed = true
	}
	report.Changed = report.Changed || len(report.SetAside) > 0
	return report, nil
}

// rotation tells logrotate about the sites' logs. nginx is made to reload
// rather than to reopen: its workers could not enter root's directories, while
// a reload hands them the files that the master opened.
func (m *Manager) rotation() []byte {
	return []byte(`# Written by chom-agent; changes are overwritten.
` + m.logs + `/*/*.log {
    daily
    rotate 14
    maxsize 100M
    compress
    delaycompress
    missingok
    notifempty
    create 0640 root root
    sharedscripts
    postrotate
        /usr/bin/systemctl kill --kill-who=main --signal=HUP nginx.service
    endscript
}
`)
}

// repair sets aside what keeps nginx from loading.
func (m *Manager) repair(ctx context.Context) (Report, error) {
	set, err := m.live()
	if err != nil {
		return Report{}, err
	}
	found, _, err := m.judge(ctx, set, contract.Handle{})
	if err != nil {
		return Report{}, err
	}
	if len(found) == 0 {
		return Report{}, nil
	}
	return Report{SetAside: found}, m.change(func() error { return m.setAside(ctx, found) })
}

// dropDistributionSite removes the link to the distribution's example page: it
// is a default server, and there can be only one. A file of an administrator's
// own under that name stays, and nginx -t will say so.
func (m *Manager) dropDistributionSite() error {
	path := m.etc + "/sites-enabled/default"
	// What can't be read as a link isn't the distribution's.
	if target, _ := os.Readlink(path); !strings.HasSuffix(target, "/sites-available/default") {
		return nil
	}
	_, err := atomicfile.Remove(path)
	return err
}
