package db_test

import (
	"path/filepath"
	"testing"

	"chom.dev/controlplane/db"
	"chom.dev/controlplane/db/dbtest"
)

// TestUpgrade: tasks from before there were backups keep their kinds, and new kinds are let in.
func TestUpgrade(t *testing.T) {
	const before = 11
	for name, open := range map[string]func(t *testing.T) *db.DB{
		"sqlite": func(t *testing.T) *db.DB {
			return dbtest.Open(t, "sqlite:"+filepath.Join(t.TempDir(), "old.db"))
		},
		"postgres": func(t *testing.T) *db.DB {
			d := dbtest.Postgres(t)
			exec(t, d, `DROP SCHEMA public CASCADE`)
			exec(t, d, `CREATE SCHEMA public`)
			return d
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := open(t)
			if err := db.MigrateTo(t.Context(), d, before); err != nil {
				t.Fatal(err)
			}
			exec(t, d, `INSERT INTO servers (id, name, tenancy, state, problem, created_at, changed_at, prepared, prepare_task_id, serial, next_serial, recoveries, epoch, instance_id, task_sequence)
				VALUES ('s', 'web1', 'shared', 'active', '', 1, 1, TRUE, '', '', '', 0, 0, '', 0)`)
			task := func(id, kind string, sequence int) error {
				return tryExec(t, d, `INSERT INTO tasks (organization_id, id, server_id, site_id, kind, parameters, generation, seal, state, sequence, attempt, fence, step_count,
					event_sequence, log_sequence, log_bytes, timeout_us, not_before, deadline_at, error, created_by, created_at, version)
					VALUES ('o', $1, 's', 'x', $2, $3, 0, $3, 'queued', $4, 0, 0, 0, 0, 0, 0, 1, 0, 1, '', '', 1, 1)`, id, kind, []byte{}, sequence)
			}
			for i, kind := range []string{"converge_site", "site_login"} {
				if err := task(kind, kind, i); err != nil {
					t.Fatal(err)
				}
			}
			exec(t, d, `INSERT INTO task_logs (task_id, sequence, logged_at, text) VALUES ('site_login', 1, 1, 'said')`)
			if task("early", "backup_site", 7) == nil {
				t.Fatal("the former schema knows backups")
			}
			if err := db.Migrate(t.Context(), d); err != nil {
				t.Fatal(err)
			}
			var kept int
			if err := d.Reader().QueryRow(t.Context(), `SELECT COUNT(*) FROM tasks t LEFT JOIN task_logs l ON l.task_id = t.id
				WHERE t.id = t.kind AND (t.id = 'converge_site' OR l.text = 'said')`).Scan(&kept); err != nil || kept != 2 {
				t.Errorf("%d tasks are as they were, %v", kept, err)
			}
			for i, kind := range []string{"backup_site", "restore_site", "undo_restore", "noop"} {
				if err := task(kind, kind, 10+i); err != nil {
					t.Errorf("%s: %v", kind, err)
				}
			}
			if task("odd", "run_command", 20) == nil {
				t.Error("a kind that nobody knows is let in")
			}
		})
	}
}

func exec(t *testing.T, d *db.DB, query string, args ...any) {
	t.Helper()
	if err := tryExec(t, d, query, args...); err != nil {
		t.Fatal(err)
	}
}

func tryExec(t *testing.T, d *db.DB, query string, args ...any) error {
	t.Helper()
	return db.InTx(t.Context(), d, func(tx *db.Tx) error {
		_, err := tx.Exec(t.Context(), query, args...)
		return err
	})
}
