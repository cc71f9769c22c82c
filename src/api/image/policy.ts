import type { Policy } from '#api/policy.ts';

/** Who may do what in the image API, by Glance's names of the actions. What a project cannot see is 404 before that. */
export const imagePolicy = {
  get_images: 'anyone',
  get_image: 'anyone',
  download_image: 'anyone',
  add_image: 'project-member',
  modify_image: 'project-member',
  delete_image: 'project-member',
  upload_image: 'project-member',
  deactivate: 'project-member',
  reactivate: 'project-member',
  publicize_image: 'admin',
  get_members: 'project-reader',
} as const satisfies Policy<string>;
