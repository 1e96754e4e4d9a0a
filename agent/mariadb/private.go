package mariadb

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"chom.dev/agent/run"
	"chom.dev/proto/contract"
)

// Private is a server that somebody runs for himself: as the user that he is, with
// its data in a directory of his, without a network and without accounts. Whoever
// reaches its socket may do all that its user can. It is small, and what it holds
// may be lost with the power.
type Private struct {
	*Server
	ended <-chan error
	stop  context.CancelFunc
}

const mariadbd = "/usr/sbin/mariadbd"

// systemTables is SQL of the distribution that makes what every server has. The
// older name is that of 10.11.
var systemTables = []string{"/usr/share/mariadb/mariadb_system_tables.sql", "/usr/share/mysql/mysql_system_tables.sql"}

const (
	privateWithin = time.Minute // to start, or to write all down and end, on a slow disk
	privateDay    = 24 * time.Hour
	// PrivateBytes is what a server without a table takes on the disk: logs and
	// system tables, of 11.8 the most.
	PrivateBytes = 150 << 20
)

func privateOptions(dir string) []string {
	return []string{
		"--no-defaults", "--datadir=" + dir + "/data", "--tmpdir=" + dir + "/tmp", "--secure-file-priv=" + dir + "/tmp",
		"--skip-log-bin", "--local-infile=0", "--symbolic-links=0", "--performance-schema=OFF",
		"--innodb-buffer-pool-size=32M", "--innodb-log-file-size=32M", "--innodb-use-native-aio=0",
		"--innodb-flush-log-at-trx-commit=0", "--innodb-doublewrite=0",
		"--key-buffer-size=8M", "--aria-pagecache-buffer-size=8M", "--max-connections=40",
		"--max-allowed-packet=64M", "--character-set-server=utf8mb4", // as the host's
	}
}

// MakePrivate makes the data of a new server in an empty directory.
func MakePrivate(ctx context.Context, dir string) error {
	for _, d := range []string{dir + "/data", dir + "/tmp"} {
		if err := os.Mkdir(d, 0o700); err != nil {
			return fmt.Errorf("make a server's data: %w", err)
		}
	}
	tables, err := openFirst(systemTables)
	if err != nil {
		return fmt.Errorf("make a server's data: %w", err)
	}
	defer tables.Close() // read-only
	_, err = run.Cmd{
		Path: mariadbd, Args: append(privateOptions(dir), "--bootstrap"), Timeout: privateWithin,
		Stdin: io.MultiReader(strings.NewReader("CREATE DATABASE mysql;\nUSE mysql;\n"), tables),
	}.Run(ctx)
	if err != nil {
		return fmt.Errorf("make a server's data: %w", err)
	}
	return nil
}

func openFirst(paths []string) (*os.File, error) {
	for _, path := range paths {
		f, err := os.Open(path)
		if !errors.Is(err, fs.ErrNotExist) {
			return f, err
		}
	}
	return nil, fmt.Errorf("%s: %w", strings.Join(paths, ", "), fs.ErrNotExist)
}

// StartPrivate runs the server whose data MakePrivate has made, and returns when it
// answers. The context ends it at once; End it else.
func StartPrivate(ctx context.Context, dir, socket string) (*Private, error) {
	s, err := New(socket)
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() {
		_, err := run.Cmd{
			Path: mariadbd, Timeout: privateDay,
			Args: append(privateOptions(dir), "--socket="+socket, "--pid-file="+dir+"/pid", "--skip-networking", "--skip-grant-tables"),
		}.Run(ctx)
		ended <- err
	}()
	p := &Private{Server: s, ended: ended, stop: stop}
	if err := p.await(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("start a server on %s: %w", dir, err), s.Close())
	}
	return p, nil
}

func (p *Private) await(ctx context.Context) error {
	for deadline := time.Now().Add(privateWithin); ; {
		_, err := p.Version(ctx)
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			p.stop()
			return errors.Join(err, <-p.ended)
		}
		select {
		case err := <-p.ended:
			p.stop()
			return errors.Join(errors.New("it ended"), err)
		case <-time.After(50 * time.Millisecond): // it takes about a second
		}
	}
}

// MakeSchema makes one as a site's is.
func (p *Private) MakeSchema(ctx context.Context, schema contract.DBName) error {
	_, err := p.slow.ExecContext(ctx, "CREATE DATABASE "+identifier(schema.String())+" CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci")
	if err != nil {
		return fmt.Errorf("make schema %s: %w", schema, err)
	}
	return nil
}

// End has the server write down what it holds, and waits until it is gone. Called
// again, it does nothing.
func (p *Private) End(ctx context.Context) error {
	defer p.stop()
	if p.ended == nil {
		return nil
	}
	_, said := p.db.ExecContext(ctx, "SHUTDOWN")
	defer func() { _ = p.Close() }() // of connections that have nobody at their other end
	select {
	case err := <-p.ended:
		p.ended = nil
		return err
	case <-time.After(privateWithin):
	case <-ctx.Done():
	}
	p.stop()
	err := errors.Join(errors.New("the server did not end by itself"), said, <-p.ended)
	p.ended = nil
	return err
}
