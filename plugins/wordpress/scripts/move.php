<?php
// Replaces the address that the database goes by, in all texts of the site's
// tables, by the one that the site has. It can be killed, and run again: what
// tells the former address is changed last. What PHP has serialized is changed
// as text, string by string with its length, so that no object is ever made.
$in = chom_input();

define( 'WP_INSTALLING', true );
chom_request( $in['url'] );

require $in['tree'] . '/wp-load.php';

/** Gives a text with the former addresses replaced. */
function chom_moved( string $text, array $moves ): string {
	if ( ! preg_match( '/^[aOsC]:\d+:/', $text ) ) {
		return chom_replaced( $text, $moves );
	}
	$at    = 0;
	$moved = chom_moved_value( $text, $at, $moves );
	if ( null !== $moved && strlen( $text ) === $at ) {
		return $moved;
	}
	return is_serialized( $text ) || preg_match( '/^C:\d+:"[^"]*":\d+:\{/', $text ) ? $text : chom_replaced( $text, $moves );
}

function chom_replaced( string $text, array $moves ): string {
	foreach ( $moves as $pattern => $to ) {
		$text = preg_replace( $pattern, $to, $text ) ?? $text;
	}
	return $text;
}

/** Moves the serialized value that begins at a place, which becomes the place behind it; null when there is none. */
function chom_moved_value( string $from, int &$at, array $moves ): ?string {
	if ( preg_match( '/\G(?:N|[bidrR]:[^;:"{}]*);/A', $from, $found, 0, $at ) ) {
		$at += strlen( $found[0] );
		return $found[0];
	}
	if ( preg_match( '/\G([sE]):(\d+):"/A', $from, $found, 0, $at ) ) {
		$begin = $at + strlen( $found[0] );
		$text  = substr( $from, $begin, (int) $found[2] );
		$at    = $begin + (int) $found[2] + 2;
		if ( strlen( $text ) !== (int) $found[2] || '";' !== substr( $from, $at - 2, 2 ) ) {
			return null;
		}
		$text = 's' === $found[1] ? chom_moved( $text, $moves ) : $text;
		return $found[1] . ':' . strlen( $text ) . ':"' . $text . '";';
	}
	if ( ! preg_match( '/\G(?:a|O:\d+:"[^"]*"):(\d+):\{/A', $from, $found, 0, $at ) ) {
		return null; // what an object has written by itself (C:) is its own matter
	}
	$at   += strlen( $found[0] );
	$moved = $found[0];
	for ( $n = (int) $found[1]; $n > 0; $n-- ) {
		$key   = chom_moved_value( $from, $at, array() ); // as it is
		$value = null === $key ? null : chom_moved_value( $from, $at, $moves );
		if ( null === $value ) {
			return null;
		}
		$moved .= $key . $value;
	}
	if ( '}' !== ( $from[ $at ] ?? '' ) ) {
		return null;
	}
	++$at;
	return $moved . '}';
}

/** A name as MariaDB reads it. */
function chom_name( string $name ): string {
	return '`' . str_replace( '`', '``', $name ) . '`';
}

/** Carries out a statement. False says that a text has become too long for its place. */
function chom_carry_out( mysqli $db, string $statement, array $values ): mysqli_result|bool {
	$prepared = $db->prepare( $statement );
	if ( $prepared && $prepared->bind_param( str_repeat( 's', count( $values ) ), ...$values ) && $prepared->execute() ) {
		$result = $prepared->get_result();
		return false === $result ? true : $result;
	}
	$failed = $prepared ? $prepared : $db;
	if ( 1406 === $failed->errno ) {
		return false;
	}
	throw new RuntimeException( "move: {$failed->error}" );
}

/** Moves the texts of one table. False says that some are left. */
function chom_move_table( mysqli $db, string $table, array $columns, array $key, array $hosts, array $moves, float $until ): bool {
	$name  = chom_name( $table );
	$likes = array();
	$words = array();
	foreach ( $columns as $column ) {
		foreach ( $hosts as $host ) {
			$likes[] = chom_name( $column ) . ' LIKE ?';
			$words[] = '%' . addcslashes( $host, '_%\\' ) . '%';
		}
	}
	$where = implode( ' OR ', $likes );
	if ( ! $key ) {
		return 0 === (int) chom_carry_out( $db, "SELECT COUNT(*) FROM $name WHERE $where", $words )->fetch_row()[0]; // no row can be told from another
	}
	$of   = implode( ' AND ', array_map( fn( $column ) => chom_name( $column ) . ' = ?', $key ) );
	$rows = chom_carry_out( $db, 'SELECT ' . implode( ', ', array_map( 'chom_name', $key ) ) . " FROM $name WHERE $where", $words );
	$all  = true;
	while ( $row = $rows->fetch_row() ) {
		if ( microtime( true ) > $until ) {
			return false;
		}
		$texts = chom_carry_out( $db, 'SELECT ' . implode( ', ', array_map( 'chom_name', $columns ) ) . " FROM $name WHERE $of", $row )->fetch_assoc();
		foreach ( $texts ?? array() as $column => $text ) {
			$moved = null === $text ? null : chom_moved( $text, $moves );
			if ( $moved !== $text ) {
				$all = chom_carry_out( $db, "UPDATE $name SET " . chom_name( $column ) . " = ? WHERE $of", array( $moved, ...$row ) ) && $all;
			}
		}
	}
	return $all;
}

$until = microtime( true ) + $in['limit'];
$db    = $wpdb->dbh;
if ( ! $db instanceof mysqli ) {
	chom_output( array( 'left' => true ) ); // the customer's own way to the database
	return;
}
mysqli_report( MYSQLI_REPORT_OFF );
if ( ! $db->query( "SET SESSION sql_mode = 'STRICT_ALL_TABLES'" ) ) { // nothing is cut in silence
	throw new RuntimeException( "move: {$db->error}" );
}

$hosts = array();
$moves = array();
$new   = untrailingslashit( $in['url'] );
foreach ( $wpdb->get_col( "SELECT option_value FROM {$wpdb->options} WHERE option_name IN ( 'siteurl', 'home' )" ) as $old ) {
	if ( ! preg_match( '~^https?://([^/]+)(/.*)?$~i', untrailingslashit( $old ), $parts ) || untrailingslashit( $old ) === $new ) {
		continue;
	}
	$old     = $parts[1] . ( $parts[2] ?? '' );
	$hosts[] = $parts[1];
	foreach ( array( '/', '\\/' ) as $slash ) { // the other one as JSON has it
		$from = str_replace( '/', $slash, $old );
		$to   = str_replace( '/', $slash, $new );
		foreach ( array( 'https?:' => $to, '' => substr( $to, strpos( $to, ':' ) + 1 ) ) as $scheme => $by ) {
			// Not in the middle of another name, and not of another port.
			$pattern           = '~' . ( '' === $scheme ? '(?<![:\w])' : $scheme ) . preg_quote( $slash . $slash . $from, '~' ) . '(?![\w-]|\.\w|:\d)~i';
			$moves[ $pattern ] = addcslashes( $by, '\\$' );
		}
	}
}

$left = false;
if ( $moves ) {
	$tables = array();
	$found  = chom_carry_out(
		$db,
		"SELECT c.table_name, c.column_name, c.column_key, c.data_type IN ( 'char', 'varchar', 'tinytext', 'text', 'mediumtext', 'longtext' ) AND c.extra NOT LIKE '%GENERATED%'
		FROM information_schema.columns c
		JOIN information_schema.tables t ON t.table_schema = c.table_schema AND t.table_name = c.table_name
		WHERE c.table_schema = DATABASE() AND t.table_type = 'BASE TABLE' AND c.table_name LIKE ?
		ORDER BY c.table_name, c.ordinal_position",
		array( addcslashes( $wpdb->prefix, '_%\\' ) . '%' )
	);
	while ( list( $table, $column, $key, $is_text ) = $found->fetch_row() ) {
		$tables[ $table ] ??= array( 'columns' => array(), 'key' => array() );
		if ( 'PRI' === $key ) {
			$tables[ $table ]['key'][] = $column;
		} elseif ( $is_text && ! ( $wpdb->posts === $table && 'guid' === $column ) ) { // that names a post for ever, whatever its address
			$tables[ $table ]['columns'][] = $column;
		}
	}
	$options = $tables[ $wpdb->options ];
	unset( $tables[ $wpdb->options ] );
	$tables[ $wpdb->options ] = $options; // the last one
	$db->begin_transaction();
	foreach ( $tables as $table => $of ) {
		if ( $of['columns'] ) {
			$left = ! chom_move_table( $db, $table, $of['columns'], $of['key'], array_unique( $hosts ), $moves, $until ) || $left;
		}
	}
	if ( ! $db->commit() ) {
		throw new RuntimeException( "move: {$db->error}" );
	}
	wp_cache_flush();
}
chom_output( array( 'left' => $left ) );
