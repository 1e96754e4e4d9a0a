module chom.dev/servers

go 1.26.0
