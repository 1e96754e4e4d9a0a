package lab

import (
	"os"
	"path/filepath"
	"testing"
)

func TestMachineMirror(t *testing.T) {
	tests := []struct {
		name  string
		files map[string]string
		want  mirror
	}{
		{"Debian's own for a machine without sources", nil,
			mirror{"http://deb.debian.org/debian", "http://deb.debian.org/debian-security"}},
		{"from one-line sources, options and comments aside", map[string]string{
			"sources.list": "# deb http://old.test/debian bookworm main\n" +
				"deb-src http://src.test/debian bookworm main\n" +
				"deb [arch=amd64 signed-by=/k.gpg] https://near.test/debian/ bookworm main contrib # ours\n" +
				"deb http://sec.test/debian-security bookworm-security main\n",
		}, mirror{"https://near.test/debian", "http://sec.test/debian-security"}},
		{"from deb822 stanzas", map[string]string{
			"sources.list.d/debian.sources": "Types: deb deb-src\n# a note\nURIs: http://near.test/debian\n" +
				"Suites: bookworm\n bookworm-updates\nComponents: main\n\nTypes: deb\nURIs: http://near.test/debian-security\n" +
				"Suites: bookworm-security\nComponents: main\n",
		}, mirror{"http://near.test/debian", "http://near.test/debian-security"}},
		{"security beside the archive when none is named", map[string]string{
			"sources.list": "deb http://near.test/mirror/debian bookworm main\n",
		}, mirror{"http://near.test/mirror/debian", "http://near.test/mirror/debian-security"}},
		{"never another vendor's, a disabled one, or a file apt ignores", map[string]string{
			"sources.list.d/docker.list":   "deb https://docker.test/linux/debian bookworm stable\n",
			"sources.list.d/pg.list":       "deb https://pg.test/pub/repos/apt bookworm-pgdg main\n",
			"sources.list.d/off.sources":   "Enabled: no\nTypes: deb\nURIs: http://off.test/debian\nSuites: bookworm\nComponents: main\n",
			"sources.list.d/old.list.save": "deb http://saved.test/debian bookworm main\n",
		}, mirror{"http://deb.debian.org/debian", "http://deb.debian.org/debian-security"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.Mkdir(filepath.Join(dir, "sources.list.d"), 0o755); err != nil {
				t.Fatal(err)
			}
			for name, content := range tt.files {
				if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if got, err := machineMirror(dir); err != nil || got != tt.want {
				t.Errorf("got %+v, %v; want %+v", got, err, tt.want)
			}
		})
	}
}
