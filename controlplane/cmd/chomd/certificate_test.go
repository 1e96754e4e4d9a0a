package main

import (
	"bytes"
	"crypto/tls"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestCertificate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		certFile, keyFile, _ := selfSigned(t, dir)
		var log bytes.Buffer
		c, err := openCertificate(certFile, keyFile, slog.New(slog.NewTextHandler(&log, nil)))
		if err != nil {
			t.Fatal(err)
		}
		go func() { _ = c.Run(t.Context()) }() // it ends with the test
		shown := func() *tls.Certificate {
			t.Helper()
			time.Sleep(3 * certificateEvery)
			synctest.Wait()
			got, err := c.Get(nil)
			if err != nil || got == nil {
				t.Fatal(got, err)
			}
			return got
		}
		said := func() string {
			defer log.Reset()
			return log.String()
		}
		first := shown()
		if log := said(); log != "" {
			t.Errorf("of files that stay it says %s", log)
		}

		newCert, newKey, _ := selfSigned(t, t.TempDir())
		rename(t, newCert, certFile)
		if shown() != first {
			t.Error("a certificate without its key is shown")
		}
		if log := said(); strings.Count(log, "cannot be used") != 1 {
			t.Errorf("of half a renewal it says %s", log)
		}
		rename(t, newKey, keyFile)
		second := shown()
		if bytes.Equal(second.Certificate[0], first.Certificate[0]) {
			t.Error("the renewed certificate is not shown")
		}
		if log := said(); strings.Count(log, "were renewed") != 1 || strings.Contains(log, "PRIVATE") {
			t.Errorf("of a renewal it says %s", log)
		}

		for name, spoil := range map[string]func() error{
			"is no certificate": func() error { return os.WriteFile(certFile, []byte("nonsense"), 0o600) },
			"is not there":      func() error { return os.Remove(keyFile) },
		} {
			if err := spoil(); err != nil {
				t.Fatal(err)
			}
			if shown() != second {
				t.Errorf("a file that %s is shown", name)
			}
		}
		if log := said(); strings.Count(log, "cannot be used") == 0 || strings.Count(log, "cannot be used") > 2 {
			t.Errorf("of broken files it says %s", log)
		}
		third, thirdKey, _ := selfSigned(t, t.TempDir())
		rename(t, third, certFile)
		rename(t, thirdKey, keyFile)
		if got := shown(); bytes.Equal(got.Certificate[0], second.Certificate[0]) {
			t.Error("what was repaired is not shown")
		}
	})
}

func rename(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(from, filepath.Clean(to)); err != nil {
		t.Fatal(err)
	}
}
