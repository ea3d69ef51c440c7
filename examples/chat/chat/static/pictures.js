// A camera's picture, made small enough to send. Where it was taken is not in it any more.

const LONGEST_SIDE = 1600;

export async function shrunk(file, most) {
    if (file.type === "image/gif" && file.size <= most) {
        // It may move.
        return file;
    }
    let bitmap;
    try {
        bitmap = await createImageBitmap(file);
    } catch {
        throw new Error("This file is no picture that your browser can show.");
    }
    const scale = Math.min(1, LONGEST_SIDE / Math.max(bitmap.width, bitmap.height));
    const canvas = document.createElement("canvas");
    canvas.width = Math.max(1, Math.round(bitmap.width * scale));
    canvas.height = Math.max(1, Math.round(bitmap.height * scale));
    canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
    bitmap.close();
    // A photograph stays one; others may be transparent.
    const type = file.type === "image/jpeg" ? "image/jpeg" : "image/webp";
    const blob = await new Promise((resolve) => canvas.toBlob(resolve, type, 0.85));
    if (!blob || blob.size > most) {
        throw new Error("The picture is too large.");
    }
    return blob;
}
