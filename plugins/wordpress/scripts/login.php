<?php
// Stores the hash of a login's token for an administrator. Loads nothing of
// WordPress but its database class.
$in = chom_input();

define( 'SHORTINIT', true );
chom_request( $in['url'] );

require $in['tree'] . '/wp-load.php';

// The administrator whom the installation made, or else the oldest one.
$user = (int) $wpdb->get_var(
	$wpdb->prepare(
		"SELECT u.ID FROM {$wpdb->users} u
		JOIN {$wpdb->usermeta} m ON m.user_id = u.ID AND m.meta_key = %s
		WHERE m.meta_value LIKE %s
		ORDER BY u.user_login = %s DESC, u.ID
		LIMIT 1",
		$wpdb->prefix . 'capabilities',
		'%' . $wpdb->esc_like( '"administrator";b:1' ) . '%',
		$in['user']
	)
);
if ( '' !== $wpdb->last_error ) {
	throw new RuntimeException( "find an administrator: {$wpdb->last_error}" );
}
if ( 0 !== $user ) {
	// Links that nobody used die here.
	$wpdb->query(
		$wpdb->prepare(
			"DELETE FROM {$wpdb->options} WHERE option_name LIKE %s AND CAST(SUBSTRING_INDEX(option_value, '|', 1) AS UNSIGNED) < %d",
			$wpdb->esc_like( '_chom_login_' ) . '%',
			time()
		)
	);
	$stored = $wpdb->insert(
		$wpdb->options,
		array(
			// The name alone finds the row; it tells nothing that the hash does not.
			'option_name'  => '_chom_login_' . substr( $in['hash'], 0, 16 ),
			'option_value' => $in['expires'] . '|' . $user . '|' . $in['hash'],
			'autoload'     => 'no',
		)
	);
	if ( 1 !== $stored ) {
		throw new RuntimeException( "store the login: {$wpdb->last_error}" );
	}
}
chom_output( array( 'user' => $user ) );
