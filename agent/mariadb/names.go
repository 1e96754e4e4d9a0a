package mariadb

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/go-sql-driver/mysql"

	"chom.dev/proto/contract"
)

// Names are of what a schema holds, each kind by name in the order of bytes.
type Names struct {
	Tables   []string // sequences among them: they are renamed and dropped alike
	Views    []string
	Triggers []string
	Routines []string // "PROCEDURE p", "FUNCTION f"
}

// NamesIn asks the server what a site's schema holds. The one who asks is the
// site's own user, whose process this must be: nobody else is let in by that name.
func NamesIn(ctx context.Context, socket string, user contract.UnixUser, schema contract.DBName) (o Names, err error) {
	cfg := mysql.NewConfig()
	cfg.User, cfg.Net, cfg.Addr, cfg.DBName = user.String(), "unix", socket, schema.String()
	cfg.Logger = &mysql.NopLogger{} // what it would say comes back as an error as well
	cfg.Timeout, cfg.ReadTimeout, cfg.WriteTimeout = 5*time.Second, time.Minute, time.Minute
	connector, err := mysql.NewConnector(cfg)
	if err != nil {
		return Names{}, fmt.Errorf("open mariadb: %w", err)
	}
	db := sql.OpenDB(connector)
	defer func() { _ = db.Close() }() // nothing is written through it
	for _, ask := range []struct {
		into  *[]string
		query string
	}{
		{&o.Tables, "SELECT table_name FROM information_schema.tables WHERE table_schema = ? AND table_type <> 'VIEW' ORDER BY BINARY table_name"},
		{&o.Views, "SELECT table_name FROM information_schema.tables WHERE table_schema = ? AND table_type = 'VIEW' ORDER BY BINARY table_name"},
		{&o.Triggers, "SELECT trigger_name FROM information_schema.triggers WHERE trigger_schema = ? ORDER BY BINARY trigger_name"},
		{&o.Routines, "SELECT CONCAT(routine_type, ' ', routine_name) FROM information_schema.routines WHERE routine_schema = ? ORDER BY routine_type, BINARY routine_name"},
	} {
		if *ask.into, err = texts(ctx, db, ask.query, schema.String()); err != nil {
			return Names{}, fmt.Errorf("list names in %s: %w", schema, err)
		}
	}
	return o, nil
}
