import { Modal, type ModalProps } from "@mantine/core";
import { useTranslation } from "react-i18next";

/**
 * A question over the page. Its head is the dialog's own, and none of the page's landmarks. One that is firm is closed by nothing but its
 * own buttons: what it shows is shown once.
 */
export function Dialog({ firm = false, ...props }: ModalProps & { firm?: boolean }) {
	const { t } = useTranslation();
	const ways = firm && { closeOnClickOutside: false, closeOnEscape: false, withCloseButton: false };
	return <Modal centered closeButtonProps={{ "aria-label": t("close") }} attributes={{ header: { role: "none" } }} {...ways} {...props} />;
}
