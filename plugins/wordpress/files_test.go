package main

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

func TestPlaceMustUse(t *testing.T) {
	for what, put := range map[string]func(path, outside string) error{
		"nothing":                 func(string, string) error { return nil },
		"an older version":        func(path, _ string) error { return os.WriteFile(path, []byte("<?php"), 0o640) },
		"a link out of the tree":  func(path, outside string) error { return os.Symlink(outside, path) },
		"a link that leads round": func(path, _ string) error { return os.Symlink(mustUseFile, path) },
		"a link inside the tree":  func(path, _ string) error { return os.Symlink("../index.php", path) },
		"a pipe":                  func(path, _ string) error { return syscall.Mkfifo(path, 0o600) },
	} {
		t.Run("replaces "+what, func(t *testing.T) {
			f := staged(t)
			outside := filepath.Join(t.TempDir(), "outside")
			if err := os.WriteFile(outside, []byte("kept"), 0o600); err != nil {
				t.Fatal(err)
			}
			dir := filepath.Join(f.public.Name(), mustUseDir)
			if err := os.MkdirAll(dir, 0o750); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(dir, mustUseFile)
			if err := put(path, outside); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				if err := placeMustUse(f.private, f.public); err != nil {
					t.Fatal(err)
				}
			}
			if info, err := os.Lstat(path); err != nil || !info.Mode().IsRegular() {
				t.Fatalf("in its place is %v, %v", info, err)
			}
			if got, err := os.ReadFile(path); err != nil || string(got) != string(mustUse) {
				t.Errorf("it holds %q, %v", got, err)
			}
			if got, err := os.ReadFile(outside); err != nil || string(got) != "kept" {
				t.Errorf("outside holds %q, %v", got, err)
			}
		})
	}
	t.Run("never goes through a folder that is a link out of the tree", func(t *testing.T) {
		f, outside := staged(t), t.TempDir()
		if err := os.MkdirAll(filepath.Join(f.public.Name(), "wp-content"), 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(outside, filepath.Join(f.public.Name(), mustUseDir)); err != nil {
			t.Fatal(err)
		}
		if err := placeMustUse(f.private, f.public); err == nil {
			t.Error("passed")
		}
		if left, err := os.ReadDir(outside); err != nil || len(left) != 0 {
			t.Errorf("outside holds %v, %v", left, err)
		}
	})
}
