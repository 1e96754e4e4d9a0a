import { Modal, type ModalProps } from "@mantine/core";
import { useTranslation } from "react-i18next";

/** A question over the page. Its head is the dialog's own, and none of the page's landmarks. */
export function Dialog(props: ModalProps) {
	const { t } = useTranslation();
	return <Modal centered closeButtonProps={{ "aria-label": t("close") }} attributes={{ header: { role: "none" } }} {...props} />;
}
