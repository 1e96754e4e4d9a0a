// Package cli builds the Debian package of the command line: build.sh and what it reads.
package cli

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
)

// TestPackage builds the package and looks into it: the program runs, shells and man find what belongs to them.
func TestPackage(t *testing.T) {
	out := t.TempDir()
	build := exec.Command("./build.sh", runtime.GOARCH)
	build.Env = append(os.Environ(), "VERSION=1.2.3", "OUT="+out, "CGO_ENABLED=0")
	if text, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, text)
	}
	deb := filepath.Join(out, "chom_"+runtime.GOARCH+".deb")
	listed := string(dpkg(t, "-c", deb))
	for _, want := range []string{
		`-rwxr-xr-x root/root .* ./usr/bin/chom`,
		`-rw-r--r-- root/root .* ./usr/share/bash-completion/completions/chom`,
		`-rw-r--r-- root/root .* ./usr/share/zsh/vendor-completions/_chom`,
		`-rw-r--r-- root/root .* ./usr/share/fish/vendor_completions.d/chom.fish`,
		`-rw-r--r-- root/root .* ./usr/share/man/man1/chom.1.gz`,
		`-rw-r--r-- root/root .* ./usr/share/man/man1/chom-site-create.1.gz`,
	} {
		if !regexp.MustCompile(`(?m)^` + want + `$`).MatchString(listed) {
			t.Errorf("%s is not in\n%s", want, listed)
		}
	}
	if got := strings.TrimSpace(string(dpkg(t, "-f", deb, "Package", "Version"))); got != "Package: chom\nVersion: 1.2.3" {
		t.Errorf("it is %q", got)
	}
	root := t.TempDir()
	dpkg(t, "-x", deb, root)
	if said, err := exec.Command(filepath.Join(root, "usr/bin/chom"), "version").Output(); err != nil || string(said) != "chom 1.2.3\n" {
		t.Errorf("it says %q, %v", said, err)
	}
}

func dpkg(t *testing.T, args ...string) []byte {
	t.Helper()
	text, err := exec.Command("dpkg-deb", args...).Output()
	if err != nil {
		t.Fatalf("dpkg-deb %s: %v", strings.Join(args, " "), err)
	}
	return text
}
