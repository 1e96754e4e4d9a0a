package backup

import (
	"bytes"
	"context"
	"fmt"
	"net/http"

	"chom.dev/agent/task"
	"chom.dev/proto/repository"
)

// Make makes a site's repository, in the format of restic 0.14. Done again it makes
// the same one: who was killed between its two objects has left nothing that is in
// the way.
func (m *Manager) Make(ctx context.Context, site task.Site) error {
	key, err := m.key(ctx, site)
	if err != nil {
		return err
	}
	first, err := repository.Begin(key)
	if err != nil {
		return fmt.Errorf("make the repository: %w", err)
	}
	for _, object := range []struct {
		path    string
		content []byte
	}{
		{"/keys/" + first.KeyName(), first.Key},
		{"/config", first.Config}, // of which Exists asks
	} {
		if err := m.put(ctx, site, object.path, object.content); err != nil {
			return fmt.Errorf("make the repository: %w", err)
		}
	}
	return nil
}

func (m *Manager) put(ctx context.Context, site task.Site, path string, content []byte) error {
	in, err := http.NewRequestWithContext(ctx, http.MethodPost, path, bytes.NewReader(content))
	if err != nil {
		return err
	}
	in.Header.Set("Content-Type", "application/octet-stream")
	res, err := m.ask(ctx, site, http.MethodPost, path, in)
	if err != nil {
		return err
	}
	defer res.Body.Close() // read as far as it is of interest
	if res.StatusCode < 300 {
		return nil
	}
	err = fmt.Errorf("the control plane says: %s", spoken(res))
	if full(res.StatusCode) {
		return task.Permanent(err)
	}
	return err
}
