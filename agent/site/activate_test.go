package site

import (
	"context"
	"errors"
	"sync"
	"testing"

	"chom.dev/agent/task"
)

func TestBeside(t *testing.T) {
	var mu sync.Mutex
	done, did := map[string]bool{}, map[string]int{}
	failing := map[string]error{}
	met := make(chan struct{}) // by each of them: neither waits for the other's end
	part := func(name string) task.Step {
		return task.Step{
			Name: name,
			Probe: func(context.Context) (bool, string, error) {
				mu.Lock()
				defer mu.Unlock()
				return done[name], name, nil
			},
			Do: func(_ context.Context, log *task.Log) error {
				select {
				case met <- struct{}{}:
				case <-met:
				}
				mu.Lock()
				defer mu.Unlock()
				did[name]++
				if failing[name] == nil {
					done[name] = true
				}
				log.Note("%s", name)
				return failing[name]
			},
		}
	}
	both := beside(part("other"), part("main"))
	failing["other"], failing["main"] = errors.New("other failed"), errors.New("main failed")
	if err := both.Do(t.Context(), new(task.Log)); !errors.Is(err, failing["other"]) || !errors.Is(err, failing["main"]) {
		t.Errorf("%v, which is not of both", err)
	}
	failing["other"] = nil
	if err := both.Do(t.Context(), new(task.Log)); !errors.Is(err, failing["main"]) {
		t.Errorf("%v", err)
	}
	if is, _, err := both.Probe(t.Context()); is || err != nil {
		t.Errorf("half of it is taken for all: %v", err)
	}
	failing["main"] = nil
	go func() { <-met }()
	if err := both.Do(t.Context(), new(task.Log)); err != nil || did["other"] != 2 || did["main"] != 3 {
		t.Errorf("%v, %v", did, err)
	}
	if is, note, err := both.Probe(t.Context()); !is || note != "main" || err != nil {
		t.Errorf("%t, %q, %v", is, note, err)
	}
}
