package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"chom.dev/plugins/sdk"
	"chom.dev/proto/contract"
)

// A staged tree in small.
var stagedEntries = []string{"index.php", "license.txt", "wp-admin/x.php", "wp-config.php", "wp-content/x.php", "wp-load.php"}

type folders struct {
	private, tree, public *os.Root
}

func staged(t *testing.T) folders {
	t.Helper()
	dir := t.TempDir()
	open := func(name string) *os.Root {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(path, 0o750); err != nil {
			t.Fatal(err)
		}
		root, err := os.OpenRoot(path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { root.Close() })
		return root
	}
	f := folders{private: open("private"), tree: open("private/" + treeDir), public: open("public")}
	for _, name := range stagedEntries {
		if err := f.tree.MkdirAll(filepath.Dir(name), 0o750); err != nil {
			t.Fatal(err)
		}
		if err := f.tree.WriteFile(name, []byte(name), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

func TestPublish(t *testing.T) {
	names, err := list(staged(t).tree)
	if err != nil {
		t.Fatal(err)
	}
	order := inOrder(names)
	if order[0] != "wp-config.php" || order[len(order)-1] != "index.php" || len(order) != len(names) {
		t.Fatalf("order %v", order)
	}
	for killedAfter := range len(order) + 1 {
		f := staged(t)
		for _, name := range order[:killedAfter] {
			if err := os.Rename(filepath.Join(f.tree.Name(), name), filepath.Join(f.public.Name(), name)); err != nil {
				t.Fatal(err)
			}
		}
		if err := publish(f.private, f.tree, f.public); err != nil {
			t.Fatalf("after %d entries: %v", killedAfter, err)
		}
		for _, name := range stagedEntries {
			if content, err := f.public.ReadFile(name); err != nil || string(content) != name {
				t.Errorf("after %d entries: %s holds %q, %v", killedAfter, name, content, err)
			}
		}
		if left, err := exists(f.private, stagingDir); err != nil || left {
			t.Errorf("after %d entries: staging is left, %v", killedAfter, err)
		}
	}
	t.Run("replaces nothing", func(t *testing.T) {
		f := staged(t)
		if err := f.public.WriteFile("license.txt", []byte("mine"), 0o640); err != nil {
			t.Fatal(err)
		}
		if err := publish(f.private, f.tree, f.public); !sdk.IsPermanent(err) || !strings.Contains(err.Error(), "license.txt") {
			t.Errorf("err = %v", err)
		}
		if content, err := f.public.ReadFile("license.txt"); err != nil || string(content) != "mine" {
			t.Errorf("the customer's file holds %q, %v", content, err)
		}
	})
}

func configSite(t *testing.T) sdk.Site {
	t.Helper()
	handle, err := contract.ParseHandle("abcdefgh27")
	if err != nil {
		t.Fatal(err)
	}
	return sdk.Site{
		Handle:   handle,
		Database: &sdk.Database{Name: handle.DBName(), User: handle.UnixUser(), Socket: "/run/mysqld/mysqld.sock"},
		Settings: sdk.Settings{settingBlockExternal: "false"},
	}
}

func TestConfig(t *testing.T) {
	t.Run("is what the golden file says", func(t *testing.T) {
		var keys []string
		for range keyNames {
			keys = append(keys, strings.Repeat("k", keyLength))
		}
		golden := filepath.Join("testdata", "wp-config.php")
		got := renderConfig(configSite(t), keys)
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != string(want) {
			t.Errorf("rendered:\n%s\nwant %s:\n%s", got, golden, want)
		}
	})
	t.Run("has keys that never repeat", func(t *testing.T) {
		var keys []string
		for range 100 {
			key := newKey()
			if len(key) != keyLength || strings.Trim(key, keyAlphabet) != "" {
				t.Fatalf("key %q", key)
			}
			keys = append(keys, key)
		}
		slices.Sort(keys)
		if len(slices.Compact(keys)) != 100 {
			t.Error("keys repeat")
		}
	})
	t.Run("quotes any text for PHP", func(t *testing.T) {
		for text, want := range map[string]string{
			"":            `''`,
			`it's`:        `'it\'s'`,
			`back\slash`:  `'back\\slash'`,
			`\'`:          `'\\\''`,
			"$x <?php ?>": `'$x <?php ?>'`,
		} {
			if got := phpString(text); got != want {
				t.Errorf("%q became %s, want %s", text, got, want)
			}
		}
	})
}

func TestSetBlockExternal(t *testing.T) {
	for name, c := range map[string]struct {
		present string
		block   bool
		want    string
	}{
		"switches our line on":          {"a\n" + string(blockExternalLine(false)) + "b\n", true, "a\n" + string(blockExternalLine(true)) + "b\n"},
		"switches our line off":         {string(blockExternalLine(true)), false, string(blockExternalLine(false))},
		"keeps what is right":           {string(blockExternalLine(true)), true, string(blockExternalLine(true))},
		"keeps what the customer wrote": {"define('WP_HTTP_BLOCK_EXTERNAL', $mine);\n", true, "define('WP_HTTP_BLOCK_EXTERNAL', $mine);\n"},
	} {
		t.Run(name, func(t *testing.T) {
			f := staged(t)
			if err := f.public.WriteFile(configFile, []byte(c.present), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := setBlockExternal(f.private, f.public, c.block); err != nil {
				t.Fatal(err)
			}
			if got, err := f.public.ReadFile(configFile); err != nil || string(got) != c.want {
				t.Errorf("holds %q, %v", got, err)
			}
		})
	}
}
