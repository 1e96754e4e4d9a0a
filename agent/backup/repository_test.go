package backup

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"

	"chom.dev/agent/task"
	"chom.dev/proto/repository"
)

func TestMake(t *testing.T) {
	w := newWorld(t, false)
	w.repository.Fault = func(rw http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/config" {
			http.Error(rw, "the disk is full", http.StatusInsufficientStorage)
			return true
		}
		return false
	}
	err := w.manager.Make(t.Context(), w.site)
	if err == nil || !strings.Contains(err.Error(), "the disk is full") || !task.IsPermanent(err) {
		t.Errorf("refused, it says %v", err)
	}
	w.repository.Fault = nil
	if there, err := w.manager.Exists(t.Context(), w.site); err != nil || there {
		t.Fatalf("half of it is one: %v, %v", there, err)
	}

	w.init()
	keys, config := w.repository.Objects("keys"), w.repository.Get("/config")
	if len(keys) != 1 {
		t.Fatalf("begun twice, it has the keys %v", keys)
	}
	w.init()
	if again := w.repository.Objects("keys"); !slices.Equal(again, keys) || string(w.repository.Get("/config")) != string(config) {
		t.Error("made again, it is another one")
	}

	t.Run("restic takes it for its own, of version 2", func(t *testing.T) {
		w.t = t
		var said struct {
			Version    int
			ID         string
			Polynomial string `json:"chunker_polynomial"`
		}
		if err := json.Unmarshal([]byte(w.restic("cat", "config")), &said); err != nil || said.Version != 2 || len(said.ID) != 64 || len(said.Polynomial) != 14 {
			t.Errorf("the config is %+v, %v", said, err)
		}
		w.restic("check")
		var listed []struct{ Current bool }
		if err := json.Unmarshal([]byte(w.restic("key", "list", "--json")), &listed); err != nil || len(listed) != 1 || !listed[0].Current {
			t.Errorf("its keys are %+v, %v", listed, err)
		}
	})
	t.Run("its key file is cheap to open, and of no other site's", func(t *testing.T) {
		var file struct {
			N, R, P int
			Salt    []byte
		}
		if err := json.Unmarshal(w.repository.Get("/keys/"+keys[0]), &file); err != nil || file.N > 2 || file.R > 1 || file.P > 1 || len(file.Salt) != 64 {
			t.Errorf("it is %+v, %v", file, err)
		}
		other, err := repository.Begin(strings.Repeat("x", 43))
		if err != nil || string(other.Key) == string(w.repository.Get("/keys/"+keys[0])) || string(other.Config) == string(config) {
			t.Errorf("another key gives the same, %v", err)
		}
	})
}
