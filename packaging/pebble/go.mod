module chom.dev/pebble

go 1.26.0
