<?php
// Put before the other scripts: makes WordPress believe in a request, since it
// reads these without asking whether they are there.
function chom_request( string $url ): void {
	$parts                      = parse_url( $url );
	$_SERVER['HTTP_HOST']       = $parts['host'];
	$_SERVER['SERVER_NAME']     = $parts['host'];
	$_SERVER['REQUEST_URI']     = '/';
	$_SERVER['REQUEST_METHOD']  = 'GET';
	$_SERVER['SERVER_PROTOCOL'] = 'HTTP/1.1';
	$_SERVER['HTTP_ACCEPT']     = 'application/json'; // errors as a line of text, not as a page
	if ( 'https' === $parts['scheme'] ) {
		$_SERVER['HTTPS'] = 'on';
	}
}

// Measures how WordPress is, once it is loaded with WP_INSTALLING and
// WP_REPAIRING. Options come straight from the table: a cache may be stale.
function chom_measure( string $locale ): array {
	global $wpdb;
	require ABSPATH . WPINC . '/version.php';
	$wpdb->suppress_errors( true );
	$option = fn( $name ) => (string) $wpdb->get_var( $wpdb->prepare( "SELECT option_value FROM {$wpdb->options} WHERE option_name = %s", $name ) );
	$url    = $option( 'siteurl' );
	if ( '' === $url && '' !== $wpdb->last_error && ! $wpdb->check_connection( false ) ) {
		throw new RuntimeException( 'the database does not answer' );
	}
	return array(
		'installed'        => '' !== $url,
		'version'          => $wp_version,
		'database_version' => $option( 'db_version' ),
		'code_version'     => (string) $wp_db_version,
		'home'             => untrailingslashit( $option( 'home' ) ),
		// What a theme with title support puts around a plain home page; see
		// wp_get_document_title().
		'home_title'       => apply_filters( 'document_title', get_bloginfo( 'name', 'display' ) ),
		'has_language'     => 'en_US' === $locale || is_readable( WP_LANG_DIR . "/$locale.mo" ),
		// WordPress itself forgets about the file after ten minutes.
		'maintenance'      => is_file( ABSPATH . '.maintenance' ) && filemtime( ABSPATH . '.maintenance' ) < time() - 600,
	);
}
